"""What must be refused, and how: the status, and words that say what was wrong."""

from __future__ import annotations

from functools import partial

import numpy as np
from tritonclient.grpc import InferInput

from .checks import Server, connected, expect, outputs, refused, shows, tensor, text


def floats(rows: int, columns: int) -> InferInput:
    """An input of the model `times`."""
    return tensor("X", np.ones((rows, columns), dtype=np.float32))


@shows("ModelInfer", "errors")
def check_unknown_model(server: Server) -> str:
    """A model that is not there, and a version that is not there."""
    with connected(server) as client:
        version = refused(client.infer, "minilm", [text("soup")], model_version="7")
        model = refused(client.infer, "nobody", [text("soup")])
        no_number = refused(client.infer, "minilm", [text("soup")], model_version="latest")
    expect(version, "NOT_FOUND", "minilm", "7")
    expect(no_number, "INVALID_ARGUMENT", "version")
    return expect(model, "NOT_FOUND", "nobody")


@shows("ModelInfer", "errors")
def check_inputs(server: Server) -> str:
    """Inputs that are missing, unknown, given twice, of another datatype or of another shape."""
    integers = np.ones((1, 16), dtype=np.int32)
    left, right = tensor("INPUT0", integers), tensor("INPUT1", integers)
    wrong = tensor("INPUT1", integers.astype(np.float32))
    with connected(server) as client:
        ask = partial(refused, client.infer, "simple")
        expect(ask([left]), "INVALID_ARGUMENT", "INPUT1")
        expect(ask([left, right, tensor("INPUT2", integers)]), "INVALID_ARGUMENT", "INPUT2")
        expect(ask([left, right, right]), "INVALID_ARGUMENT", "INPUT1")
        expect(ask([left, wrong]), "INVALID_ARGUMENT", "INPUT1", "FP32", "INT32")
        expect(ask([left, tensor("INPUT1", np.ones((1, 15), dtype=np.int32))]), "INVALID_ARGUMENT", "INPUT1")
        expect(ask([left, tensor("INPUT1", np.ones((2, 16), dtype=np.int32))]), "INVALID_ARGUMENT")
        many = np.ones((9, 16), dtype=np.int32)
        batch = ask([tensor("INPUT0", many), tensor("INPUT1", many)])
        return expect(batch, "INVALID_ARGUMENT", "8")


@shows("ModelInfer", "errors")
def check_bytes(server: Server) -> str:
    """Bytes that are not as many as the shape says, and texts whose lengths lead beyond their end."""
    few = floats(2, 2)
    few._raw_content = few._get_content()[:-4]
    torn = text("soup")
    torn._raw_content = b"\xff\xff\xff\x7fsoup"
    no_text = text("soup")
    no_text._raw_content = b"\x02\x00\x00\x00\xff\xfe"
    huge = InferInput("X", [1 << 40, 1 << 40], "FP32")
    huge._raw_content = b"\x00\x00\x00\x00"
    negative = InferInput("X", [-1, 2], "FP32")
    negative._raw_content = b"\x00" * 8
    with connected(server) as client:
        for model, wrong, named in (
            ("minilm", torn, "text"),
            ("minilm", no_text, "text"),
            ("times", huge, "X"),
            ("times", negative, "X"),
        ):
            expect(refused(client.infer, model, [wrong]), "INVALID_ARGUMENT", named)
        return expect(refused(client.infer, "times", [few]), "INVALID_ARGUMENT", "X")


@shows("ModelInfer", "errors")
def check_outputs(server: Server) -> str:
    """An output that the model does not have."""
    with connected(server) as client:
        error = refused(client.infer, "times", [floats(1, 1)], outputs=outputs("Y", "Z"))
    return expect(error, "INVALID_ARGUMENT", "Z")


@shows("ModelInfer", "errors")
def check_texts(server: Server) -> str:
    """Texts that are empty tensors, of a wrong shape, or more than the server takes in one call."""
    with connected(server) as client:
        ask = partial(refused, client.infer, "minilm")
        expect(ask([tensor("text", np.array([[b"a", b"b"]], dtype=np.object_))]), "INVALID_ARGUMENT", "text")
        expect(ask([tensor("text", np.zeros((0, 1), dtype=np.object_))]), "INVALID_ARGUMENT", "text")
        return expect(ask([text(*["soup"] * 1025)]), "INVALID_ARGUMENT", "1024")


@shows("ModelInfer", "errors", "request parameters")
def check_parameters_that_are_not_offered(server: Server) -> str:
    """Sequences are not there, and nobody is led to believe so; wrong values are told."""
    with connected(server) as client:
        ask = partial(refused, client.infer, "times", [floats(1, 1)])
        expect(ask(sequence_id=5, sequence_start=True), "UNIMPLEMENTED", "sequence")
        priority = ask(priority=99)
        expect(refused(client.infer, "minilm", [text("soup")], parameters={"truncate": 3}), "INVALID_ARGUMENT")
    return expect(priority, "INVALID_ARGUMENT", "priority")


@shows("ModelInfer", "errors")
def check_large_messages(server: Server) -> str:
    """A message over the server's limit."""
    with connected(server) as client:
        error = refused(client.infer, "times", [floats(3, 1 << 20)])
    return expect(error, "RESOURCE_EXHAUSTED")
