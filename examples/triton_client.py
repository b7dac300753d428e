"""Triton's own client library, as it is, against Headwaiter: texts in, vectors out.

    pip install 'tritonclient[grpc]'
    python examples/triton_client.py 127.0.0.1:8001 minilm "the soup of the day" "soup" "the bill, please"

Prints how alike the first text and each of the others are.
"""

from __future__ import annotations

import sys

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

target, model, *texts = sys.argv[1:]

with InferenceServerClient(target) as client:
    # A model of texts has one input, `text`: a text in each row.
    given = InferInput("text", [len(texts), 1], "BYTES")
    given.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=np.object_))
    vectors = client.infer(model, [given]).as_numpy("embedding")

for text, likeness in zip(texts[1:], vectors[1:] @ vectors[0], strict=True):
    print(f"{likeness:.2f}  {text}")
