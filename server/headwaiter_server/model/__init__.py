"""Models as the rest of the server sees them, and the one file that runs onnxruntime."""
