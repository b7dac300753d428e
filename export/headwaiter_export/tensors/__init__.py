"""Tensors in, tensors out: any PyTorch module, and ONNX files that are there already.

There is no tokenizer and no meaning here, only rows: the first axis of every tensor is the batch.
"""
