"""Triton's own client library, as it is, against Headwaiter: texts in, vectors out.

    pip install 'tritonclient[grpc]'
    python examples/triton_client.py 127.0.0.1:8001 minilm "the soup of the day" "soup" "the bill, please"

Prints how alike the first text and each of the others are.
"""

from __future__ import annotations

import argparse

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

parser = argparse.ArgumentParser(description="Compare texts by their vectors, with Triton's client.")
parser.add_argument("target", help="the server, HOST:PORT")
parser.add_argument("model", help="name of a model that embeds")
parser.add_argument("texts", nargs="+", metavar="text", help="the first is compared with each of the others")
arguments = parser.parse_args()
texts = arguments.texts

with InferenceServerClient(arguments.target) as client:
    # A model of texts has one input, `text`: a text in each row.
    given = InferInput("text", [len(texts), 1], "BYTES")
    given.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=np.object_))
    vectors = client.infer(arguments.model, [given]).as_numpy("embedding")

for text, likeness in zip(texts[1:], vectors[1:] @ vectors[0], strict=True):
    print(f"{likeness:.2f}  {text}")
