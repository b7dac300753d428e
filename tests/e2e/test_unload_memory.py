"""A large model that is unloaded gives the memory back that loading it took, as the kernel counts it."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import grpc
import numpy as np
import psutil
from headwaiter_proto.inference import grpc_service_pb2 as inference
from headwaiter_proto.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from onnx import ModelProto, helper
from unit.server.tensor_graphs import FLOAT, Axes, bare, model_of

from .process import running_server

# 64 MiB of weights, as a model of texts has them: in pieces that the C library takes from its heap, too.
WIDTH, LAYERS = 1024, 16
WEIGHT_BYTES = 4 * WIDTH * WIDTH * LAYERS
# Of what loading took; 0.01 was seen. What is kept are heaps, of Python and of the C library.
MOST_KEPT = 0.1
ROUNDS = 3
_PATIENT_SECONDS = 60.0


def layers(width: int, count: int) -> ModelProto:
    """`y` is `x` after so many layers, each with a matrix of its own."""
    generator = np.random.default_rng(0)
    names = ["x", *(f"h{number}" for number in range(1, count)), "y"]
    nodes = [
        helper.make_node("MatMul", [before, f"w{number}"], [after])
        for number, (before, after) in enumerate(pairwise(names))
    ]
    weights = {
        f"w{number}": generator.standard_normal((width, width), np.float32) / width**0.5 for number in range(count)
    }
    axes: Axes = ["batch", width]
    return model_of(nodes, {"x": (FLOAT, axes)}, {"y": (FLOAT, axes)}, weights)


def request_of(model: str, width: int) -> inference.ModelInferRequest:
    x = np.ones((8, width), np.float32)
    request = inference.ModelInferRequest(model_name=model, raw_input_contents=[x.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    return request


def test_unload_gives_back_what_the_load_took(tmp_path: Path) -> None:
    """Its resident size comes back after each unload; loading the model again and again adds nothing."""
    bare(tmp_path, layers(WIDTH, LAYERS), name="large")
    bare(tmp_path, layers(8, LAYERS), name="small")
    flags = (
        "--model-control",
        "explicit",
        "--load-models",
        "small",
        "--calibration",
        "off",
        "--lame-duck-seconds",
        "0",
    )
    with (
        running_server("--models", str(tmp_path), "--workers", "1", *flags) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        stub, process = GRPCInferenceServiceStub(channel), psutil.Process(server.process.pid)

        def resident_bytes() -> int:
            return int(process.memory_info().rss)

        def loaded_bytes(model: str, width: int) -> int:
            """Resident size with the model in it, which has answered; then it is unloaded."""
            stub.RepositoryModelLoad(inference.RepositoryModelLoadRequest(model_name=model), timeout=_PATIENT_SECONDS)
            stub.ModelInfer(request_of(model, width), timeout=_PATIENT_SECONDS)
            held = resident_bytes()
            unload = inference.RepositoryModelUnloadRequest(model_name=model)
            stub.RepositoryModelUnload(unload, timeout=_PATIENT_SECONDS)
            return held

        loaded_bytes("small", 8)  # what any first load makes once
        before = resident_bytes()
        for _ in range(ROUNDS):
            taken = loaded_bytes("large", WIDTH) - before
            assert taken > 0.9 * WEIGHT_BYTES, "whatever was loaded, it was not this"
            # The last of its calls may still be on its way out.
            until = time.monotonic() + _PATIENT_SECONDS
            while (kept := resident_bytes() - before) > MOST_KEPT * taken and time.monotonic() < until:
                time.sleep(0.05)
            assert kept <= MOST_KEPT * taken
        assert server.terminate() == 0
