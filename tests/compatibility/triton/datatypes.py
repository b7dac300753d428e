"""Every datatype there and back, through a model whose outputs are its inputs."""

from __future__ import annotations

import numpy as np
from tritonclient.grpc import InferInput

from .checks import Array, Server, connected, expect, refused, shows, tensor

try:
    from ml_dtypes import bfloat16
except ImportError:  # the older client gives and takes BF16 as float32
    bfloat16 = np.float32

_FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BF16": bfloat16}
_EDGES = [np.inf, -np.inf, np.nan, -0.0, 1.5, 2.0**-14]


def values(shape: tuple[int, int]) -> dict[str, Array]:
    """Values of every datatype, the smallest and largest of each among them."""
    random, made = np.random.default_rng(shape), dict[str, Array]()
    made["BOOL"] = random.random(shape) < 0.5
    for bits in (8, 16, 32, 64):
        for name, kind in ((f"INT{bits}", f"int{bits}"), (f"UINT{bits}", f"uint{bits}")):
            bounds = np.iinfo(kind)
            made[name] = random.integers(bounds.min, bounds.max, shape, dtype=kind, endpoint=True)
            made[name].flat[:2] = bounds.min, bounds.max
    for name, number in _FLOATS.items():
        # Whole numbers below 256 and these edges are the same in every one of these types.
        made[name] = random.integers(-255, 255, shape).astype(number)
        made[name].flat[: len(_EDGES)] = np.array(_EDGES[: made[name].size], dtype=number)
    return made


def send(server: Server, model: str, sent: dict[str, Array]) -> dict[str, Array]:
    """Send values to a model that gives back what it is given."""
    with connected(server) as client:
        answer = client.infer(model, [tensor(f"in_{name}", each, name) for name, each in sent.items()])
    assert all(answer.get_output(f"out_{name}").datatype == name for name in sent)
    return {name: answer.as_numpy(f"out_{name}") for name in sent}


@shows("ModelInfer", "datatypes")
def check_numbers(server: Server) -> str:
    """Values of 13 datatypes, extremes, infinities and what is no number among them, come back bit by bit."""
    for shape in ((3, 5), (2, 3), (1, 8)):
        sent = values(shape)
        for name, got in send(server, "numbers", sent).items():
            assert (got.dtype, got.shape) == (sent[name].dtype, shape), name
            assert got.tobytes() == sent[name].tobytes(), name
    return ", ".join(sent)


@shows("ModelInfer", "datatypes")
def check_texts(server: Server) -> str:
    """Texts, empty and long ones among them, given as bytes or as `str`; what is no UTF-8 ONNX does not know."""
    texts = [b"", "soupe à l'oignon".encode(), b"nul \0 inside", b"x" * 3000]
    sent = np.array([texts, texts[::-1]], dtype=np.object_)
    assert send(server, "strings", {"BYTES": sent})["BYTES"].tolist() == sent.tolist()
    names = np.array([["crème", "brûlée"]], dtype=np.object_)
    got = send(server, "strings", {"BYTES": names})["BYTES"]
    assert [each.decode() for each in got.ravel()] == names.ravel().tolist()
    with connected(server) as client:
        wrong = np.array([[b"\xff\xfe"]], dtype=np.object_)
        error = refused(client.infer, "strings", [tensor("in_BYTES", wrong)])
    return "BYTES; no UTF-8: " + expect(error, "INVALID_ARGUMENT", "in_BYTES")


@shows("ModelInfer", "datatypes")
def check_typed_contents(server: Server) -> str:
    """Values in `contents`, which this client never sends by itself, are taken as well."""
    given = InferInput("X", [1, 3], "FP32")
    given._get_tensor().contents.fp32_contents.extend([1.0, 2.0, 3.0])
    with connected(server) as client:
        answer = client.infer("times", [given]).as_numpy("Y")
    assert answer.tolist() == [[2.0, 4.0, 6.0]]
    return "fp32_contents"
