"""gRPC: the only package, besides `app`, that knows of it."""
