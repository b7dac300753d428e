"""The same work through either service: `python -m benchmarks.open_inference_load texts|tensor TARGET ...`.

`texts` sends texts to an embed model, by `headwaiter.v1` or by the Open Inference Protocol. `tensor` sends an FP32
tensor, over and over. Either keeps a number of calls outstanding and prints its figures as JSON. The messages are made
beforehand, and go and come as raw bytes.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import uvloop
from headwaiter_proto.inference import grpc_service_pb2 as inference
from headwaiter_proto.v1 import inference_pb2

from benchmarks.encoders.load import EMBED, closed_loop
from benchmarks.encoders.workloads import read_workload

INFER = "/inference.GRPCInferenceService/ModelInfer"
METHODS = {"headwaiter": EMBED, "open-inference": INFER}
# Ends a run in which something is broken.
_LIMIT_SECONDS = 240.0


def embed_request(model: str, texts: Sequence[str]) -> bytes:
    """Texts for `headwaiter.v1`."""
    return inference_pb2.EmbedRequest(model=model, texts=texts).SerializeToString()


def infer_texts(model: str, texts: Sequence[str]) -> bytes:
    """The same texts for the Open Inference Protocol: a column of BYTES."""
    encoded = [text.encode() for text in texts]
    tensor = inference.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[len(texts), 1])
    raw = b"".join(len(each).to_bytes(4, "little") + each for each in encoded)
    return inference.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[raw]).SerializeToString()


def infer_tensor(model: str, name: str, rows: int, columns: int) -> bytes:
    """Random numbers as FP32 [rows, columns]."""
    values = np.random.default_rng(1).random((rows, columns), np.float32)
    tensor = inference.ModelInferRequest.InferInputTensor(name=name, datatype="FP32", shape=values.shape)
    request = inference.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[values.tobytes()])
    return request.SerializeToString()


BUILDERS = {"headwaiter": embed_request, "open-inference": infer_texts}


def main() -> None:
    """Send the load and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["texts", "tensor"])
    parser.add_argument("target")
    parser.add_argument("--model", required=True)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--outstanding", type=int, default=1)
    parser.add_argument("--service", choices=METHODS, default="open-inference")
    parser.add_argument("--texts", type=Path, help="what workloads.write_workloads wrote")
    parser.add_argument("--workload", default="short")
    parser.add_argument("--order", type=int, default=0, help="another number, another order of the texts")
    parser.add_argument("--texts-per-call", type=int, default=1)
    parser.add_argument("--input", default="x", help="name of the tensor")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--columns", type=int, default=1)
    options = parser.parse_args()
    if options.what == "texts":
        size = options.texts_per_call
        own = itertools.cycle(read_workload(options.texts, options.workload, options.order))
        build = BUILDERS[options.service]
        requests = [build(options.model, list(itertools.islice(own, size))) for _ in range(options.calls)]
    else:
        requests = [infer_tensor(options.model, options.input, options.rows, options.columns)] * options.calls
    loop = closed_loop(options.target, requests, options.outstanding, _LIMIT_SECONDS, METHODS[options.service])
    print(json.dumps(uvloop.run(loop)))


if __name__ == "__main__":
    main()
