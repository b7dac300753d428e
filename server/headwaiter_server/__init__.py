"""Headwaiter's server: verified ONNX bundles over gRPC on onnxruntime, with padding-free dynamic batching."""
