"""Tensors travel as the Open Inference Protocol has them, made or given, and what does not fit is refused by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from headwaiter_load.errors import BadInputError
from headwaiter_load.tensors import Filling, Tensor, TensorSpec, infer_requests, made_inputs, read_inputs
from headwaiter_proto.inference import grpc_service_pb2 as inference

TEXT = TensorSpec("text", "BYTES", (-1, 1))
IDS = TensorSpec("ids", "INT64", (-1, 4))
DTYPES = {"BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"} | {
    f"{sign}INT{bits}": f"<{'u' if sign else 'i'}{bits // 8}" for sign in ("", "U") for bits in (8, 16, 32, 64)
}


def test_texts_and_numbers_are_made_for_each_call() -> None:
    """The first dimension of any size is the texts of the call; bytes elements have their length before them."""
    (call,) = made_inputs([TEXT, IDS], [("a", "\u00fcb")], Filling({}, (5, 5)))
    assert call["text"] == Tensor("BYTES", (2, 1), b"\x01\0\0\0a" + b"\x03\0\0\0" + "\u00fcb".encode())
    assert call["ids"] == Tensor("INT64", (2, 4), struct.pack("<8q", *[5] * 8))


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_numeric_elements_are_little_endian(tmp_path: Path, datatype: str) -> None:
    """Every datatype is written as numpy writes it."""
    values = [True, False, True] if datatype == "BOOL" else [0, 1, 100]
    path = tmp_path / "input.json"
    path.write_text(json.dumps({"data": [{"x": values}]}))
    (call,) = read_inputs(path, [TensorSpec("x", datatype, (-1,))])
    assert call["x"].shape == (3,)
    assert call["x"].raw == np.array(values, DTYPES[datatype]).tobytes()


def test_bf16_is_the_upper_half_of_fp32() -> None:
    """As the protocol has it."""
    (call,) = made_inputs([TensorSpec("x", "BF16", (2,))], [("a",)], Filling({}))
    assert len(call["x"].raw) == 4


def test_open_sizes_are_one_or_given() -> None:
    """Further dimensions of any size are 1 unless a shape says otherwise."""
    spec = TensorSpec("x", "FP32", (-1, -1, 3))
    (plain,) = made_inputs([spec], [("a",)], Filling({}))
    (shaped,) = made_inputs([spec], [("a", "b")], Filling({"x": (-1, 16, 3)}))
    assert (plain["x"].shape, shaped["x"].shape) == ((1, 1, 3), (2, 16, 3))


@pytest.mark.parametrize(
    ("shapes", "said"),
    [({"y": (1,)}, "names 'y'"), ({"ids": (-1, 5)}, "does not fit"), ({"ids": (4,)}, "does not fit")],
)
def test_shapes_that_do_not_fit_are_refused(shapes: dict[str, tuple[int, ...]], said: str) -> None:
    """An unknown input, another size and another rank are refused."""
    with pytest.raises(BadInputError, match=said):
        made_inputs([IDS], [("a",)], Filling(shapes))


def test_given_tensors_have_their_shape_or_the_servers(tmp_path: Path) -> None:
    """Without a shape the one open size follows from the values."""
    path = tmp_path / "input.json"
    path.write_text(
        json.dumps({"data": [{"ids": [1, 2, 3, 4, 5, 6, 7, 8]}, {"ids": {"content": [1] * 4, "shape": [1, 4]}}]})
    )
    first, second = read_inputs(path, [IDS])
    assert (first["ids"].shape, second["ids"].shape) == ((2, 4), (1, 4))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], 'no object with a list "data"'),
        ({"data": []}, 'no object with a list "data"'),
        ({"data": [{"ids": [1] * 4}], "more": 1}, 'no object with a list "data"'),
        ({"data": [{"id": [1]}]}, r"data\[0\] does not give exactly ids"),
        ({"data": [{"ids": 3}]}, r"data\[0\].ids is no list"),
        ({"data": [{"ids": [1, 2, 3]}]}, "3 values"),
        ({"data": [{"ids": {"content": [1], "shape": [2]}}]}, "takes 2"),
        ({"data": [{"ids": {"content": [1], "form": [1]}}]}, "other fields"),
        ({"data": [{"ids": ["a", "b", "c", "d"]}]}, "no INT64"),
        ({"data": [{"ids": [2**70] * 4}]}, "no INT64"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, data: object, said: str) -> None:
    """The file and the place are named."""
    path = tmp_path / "input.json"
    path.write_text(json.dumps(data))
    with pytest.raises(BadInputError, match=rf"input\.json: .*{said}"):
        read_inputs(path, [IDS])


def test_unknown_datatypes_are_refused() -> None:
    """What cannot be written is not guessed at."""
    with pytest.raises(BadInputError, match="unknown datatype 'FP8'"):
        made_inputs([TensorSpec("x", "FP8", (1,))], [("a",)], Filling({}))


def test_requests_hold_tensors_as_raw_bytes() -> None:
    """One raw entry for each input, in their order; no typed contents."""
    made = made_inputs([TEXT, IDS], [("a",)], Filling({}))
    requests = infer_requests("m", "2", made, [1], stream=False)
    message = inference.ModelInferRequest.FromString(requests.payloads[0])
    assert (message.model_name, message.model_version) == ("m", "2")
    assert [(each.name, each.datatype, list(each.shape)) for each in message.inputs] == [
        ("text", "BYTES", [1, 1]),
        ("ids", "INT64", [1, 4]),
    ]
    assert list(message.raw_input_contents) == [made[0]["text"].raw, made[0]["ids"].raw]
    assert not any(each.HasField("contents") for each in message.inputs)
