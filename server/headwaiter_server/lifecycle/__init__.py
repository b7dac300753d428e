"""Models on disk and models that serve."""
