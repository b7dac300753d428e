"""Batching of texts that a model answers in one run."""
