"""Encoder checkpoints of Hugging Face and sentence-transformers to verified bundles.

`recipe` is the way through: `checkpoint` reads the folder, `packed` and `padded` are the two graphs a model can
become, `lean` makes a graph fast, `gate` holds it to the unmodified PyTorch model.
"""
