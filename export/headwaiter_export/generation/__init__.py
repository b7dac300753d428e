"""Models that generate, to graphs that keep their key/value cache in place."""
