"""Models as the rest of the server sees them, and the two files that know onnxruntime."""

import os

# What a server computes is nobody else's business. Where this is not said before the import, newer runtimes open a
# file in the user's cache folder, and start a thread that outlives every session.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
