"""Requests of the Open Inference Protocol, for whatever inputs a server says that its model takes."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headwaiter_proto.inference import grpc_service_pb2 as inference

from headwaiter_load.errors import BadInputError
from headwaiter_load.requests import Requests

_SERVICE: Final = "/inference.GRPCInferenceService"

# What `struct` calls an element; BYTES and BF16 are written by hand.
_FORMATS: Final = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
DATATYPES: Final = (*_FORMATS, "BF16", "BYTES")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input of a model.

    Attributes:
        name: Its name.
        datatype: What its elements are, as the protocol calls it.
        shape: Its dimensions; -1 for any size.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Filling:
    """How sizes and numbers that nobody gives are chosen.

    Attributes:
        shapes: Dimensions by input, instead of those that the server says.
        integers: The least and the largest whole number that is made.
        seed: Of everything random.
    """

    shapes: Mapping[str, tuple[int, ...]]
    integers: tuple[int, int] = (1, 1)
    seed: int = 0


def infer_requests(
    model: str, version: str, inputs: Sequence[Mapping[str, Tensor]], rows: Sequence[int], *, stream: bool
) -> Requests:
    """The requests of a run: one for each set of inputs."""
    return Requests(
        path=f"{_SERVICE}/ModelStreamInfer" if stream else f"{_SERVICE}/ModelInfer",
        exchange="infer-stream" if stream else "unary",
        payloads=tuple(_request(model, version, each) for each in inputs),
        rows=tuple(rows),
    )


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input with its elements.

    Attributes:
        datatype: What its elements are.
        shape: Its dimensions.
        raw: Its elements as they travel.
    """

    datatype: str
    shape: tuple[int, ...]
    raw: bytes


def made_inputs(
    specs: Sequence[TensorSpec], calls: Sequence[Sequence[str]], filling: Filling
) -> list[dict[str, Tensor]]:
    """Inputs for each call: its texts where elements are BYTES, numbers elsewhere.

    A first dimension of any size is as long as the call has texts, others of any size are 1.

    Raises:
        BadInputError: A shape is given for an input that there is not, or does not fit; a datatype is unknown.
    """
    names = {spec.name for spec in specs}
    if unknown := sorted(filling.shapes.keys() - names):
        raise BadInputError(f"--shape names {unknown[0]!r}; the model's inputs are {', '.join(sorted(names))}")
    dice = random.Random(filling.seed)  # noqa: S311 - repeatable, not secret
    return [{spec.name: _made(spec, texts, filling, dice) for spec in specs} for texts in calls]


def read_inputs(path: Path, specs: Sequence[TensorSpec]) -> list[dict[str, Tensor]]:
    """Inputs from a JSON file: `{"data": [{NAME: [VALUE, ...] or {"content": [...], "shape": [...]}}, ...]}`.

    Values stand row by row. Without a shape it is the server's, with the one dimension of any size that fits.

    Raises:
        BadInputError: It is no such file, or does not fit what the model takes.
        OSError: It cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        steps = data["data"] if isinstance(data, dict) and data.keys() == {"data"} else None
        if not isinstance(steps, list) or not steps:
            raise BadInputError('it is no object with a list "data"')  # noqa: TRY301 - gets its prefix below
        return [_step(number, step, specs) for number, step in enumerate(steps)]
    except (ValueError, BadInputError) as error:
        raise BadInputError(f"{path}: {error}") from error


def _step(number: int, step: object, specs: Sequence[TensorSpec]) -> dict[str, Tensor]:
    if not isinstance(step, dict) or step.keys() != {spec.name for spec in specs}:
        raise BadInputError(f"data[{number}] does not give exactly {', '.join(spec.name for spec in specs)}")
    return {spec.name: _given(f"data[{number}].{spec.name}", step[spec.name], spec) for spec in specs}


def _given(where: str, value: object, spec: TensorSpec) -> Tensor:
    shape: object = None
    if isinstance(value, dict):
        if not value.keys() <= {"content", "shape"}:
            raise BadInputError(f"{where} has other fields than content and shape")
        shape = value.get("shape")
        value = value.get("content")
    if not isinstance(value, list):
        raise BadInputError(f"{where} is no list of values, one after the other")
    if shape is None:
        known = math.prod(size for size in spec.shape if size >= 0)
        shape = [len(value) // known if known and size < 0 else size for size in spec.shape]
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise BadInputError(f"{where}: its shape is {shape!r}")
    if math.prod(shape) != len(value):
        raise BadInputError(f"{where} has {len(value)} values; its shape {shape} takes {math.prod(shape)}")
    return Tensor(spec.datatype, tuple(shape), _encoded(where, spec.datatype, value))


def _made(spec: TensorSpec, texts: Sequence[str], filling: Filling, dice: random.Random) -> Tensor:
    given = filling.shapes.get(spec.name, spec.shape)
    if len(given) != len(spec.shape) or any(size not in {-1, own} for own, size in zip(given, spec.shape, strict=True)):
        raise BadInputError(f"--shape {spec.name}:{','.join(map(str, given))} does not fit {list(spec.shape)}")
    shape = tuple((len(texts) if axis == 0 else 1) if size < 0 else size for axis, size in enumerate(given))
    count = math.prod(shape)
    values: list[Any]
    if spec.datatype == "BYTES":
        values = [texts[number % len(texts)] for number in range(count)]
    elif spec.datatype == "BOOL":
        values = [True] * count
    elif spec.datatype in {"FP16", "BF16", "FP32", "FP64"}:
        values = [dice.random() for _ in range(count)]
    else:
        values = [dice.randint(*filling.integers) for _ in range(count)]
    return Tensor(spec.datatype, shape, _encoded(f"--integers for {spec.name}", spec.datatype, values))


def _encoded(where: str, datatype: str, values: Sequence[Any]) -> bytes:
    """Elements as they travel: little-endian; BYTES each with its length before it."""
    try:
        if datatype == "BYTES":
            elements = [value.encode() for value in values]
            return b"".join(struct.pack("<I", len(element)) + element for element in elements)
        if datatype == "BF16":
            # The upper half of an FP32.
            return b"".join(struct.pack("<f", value)[2:] for value in values)
        return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)
    except (struct.error, AttributeError, OverflowError) as error:
        raise BadInputError(f"{where}: values that are no {datatype}: {error}") from error
    except KeyError as error:
        raise BadInputError(f"{where}: unknown datatype {datatype!r}; known are {', '.join(DATATYPES)}") from error


def _request(model: str, version: str, tensors: Mapping[str, Tensor]) -> bytes:
    return inference.ModelInferRequest(
        model_name=model,
        model_version=version,
        inputs=[
            inference.ModelInferRequest.InferInputTensor(name=name, datatype=tensor.datatype, shape=tensor.shape)
            for name, tensor in tensors.items()
        ],
        raw_input_contents=[tensor.raw for tensor in tensors.values()],
    ).SerializeToString()
