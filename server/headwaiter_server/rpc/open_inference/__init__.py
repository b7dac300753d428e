"""The Open Inference Protocol: `inference.GRPCInferenceService`, as Triton speaks it."""
