"""Decoder-only checkpoints to one graph that keeps its key/value cache in place."""
