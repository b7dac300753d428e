"""Generation with iteration-level batching: texts join and leave the running batch between decoding steps."""
