"""The Open Inference Protocol; in a process of its own from other libraries that bring its stubs."""
