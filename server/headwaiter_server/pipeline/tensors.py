"""Tensors to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.batching.task import RunAnswer, TensorTask
from headwaiter_server.config import NonfiniteInputs
from headwaiter_server.errors import EngineError, InvalidRequestError
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.model.contract import Array, RefusedInputError, Signature, TensorSpec
from headwaiter_server.model.datatypes import BY_NAME, BYTES
from headwaiter_server.model.tensors import TensorRows, Tensors, finite, floating, rows_of
from headwaiter_server.pipeline.core import Core, Lane, Timings
from headwaiter_server.scheduling.admission import Permit
from headwaiter_server.scheduling.calls import Terms

# Of a model's tensors, how many an error names, and how much of a name that is none of theirs.
_MOST_NAMED = 10
_MOST_NAME_CHARACTERS = 100
# So many characters are tokenized in the time in which an element of BYTES is decoded.
_CHARACTERS_FOR_AN_ELEMENT = 4
# So many bytes of numbers are looked through in the time in which a character is tokenized: 8 MiB inline, in half a
# millisecond.
_BYTES_FOR_A_CHARACTER = 512


@dataclass(frozen=True, slots=True)
class TensorRequest:
    """A request for tensors.

    Attributes:
        model: Name, or "".
        version: Version, or 0.
        inputs: Arrays by name; views will do. BYTES are objects of `bytes`, BF16 its 16 bits as uint16.
        outputs: Names of the outputs wanted, in order; none for all.
    """

    model: str
    version: int
    inputs: Mapping[str, Array]
    outputs: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class TensorReply:
    """The answer to a `TensorRequest`.

    Attributes:
        model: Who answered.
        outputs: What was wanted, in order; of the same types as inputs are.
        timings: Where the time went; of tokens there are none.
    """

    model: ServedModel
    outputs: Tensors
    timings: Timings


async def infer_tensors(core: Core, permit: Permit, terms: Terms, request: TensorRequest) -> TensorReply:
    """Have a model of tensors answer a request. Its rows stay together, and may share a run with those of others."""
    model = core.claim(permit, request.model, request.version, bundle_pb2.TASK_TENSOR)
    started = core.clock()
    read = partial(read_tensors, model.signature, request, core.nonfinite_inputs)
    source, wanted = await core.read(terms.spending, read, 0, _characters(request, core.nonfinite_inputs))
    permit.hold_texts(source.rows)
    submitted = core.clock()
    terms.trail.read(started, submitted, 0)
    lane = cast("Lane[TensorTask, RunAnswer[Tensors]]", model.lane)
    try:
        (answer,) = await core.run(lane, terms, submitted, [TensorTask(source, wanted)])
    except EngineError as error:
        if isinstance(error.__cause__, RefusedInputError):
            description = "hold a value that the model has no answer to, such as an index beyond a table"
            raise InvalidRequestError("inputs", description) from error
        raise
    return TensorReply(model, answer.values, Timings.of(submitted - started, (answer,)))


def read_tensors(
    signature: Signature, request: TensorRequest, nonfinite: NonfiniteInputs = "pass"
) -> tuple[TensorRows, tuple[str, ...]]:
    """Hold a request to a model's signature.

    Args:
        signature: The model's.
        request: The request.
        nonfinite: What becomes of NaN and infinities.

    Returns:
        Its inputs as the model takes them, and the names of the outputs that it wants.

    Raises:
        InvalidRequestError: It has other inputs than the model, inputs of other types or shapes, another number of
            rows in each, too many, NaN or infinities where these are refused, or wants outputs that there are not.
    """
    inputs = request.inputs
    arrays: Tensors = {}
    for spec in signature.inputs:
        array = inputs.get(spec.name)
        if array is not None:
            arrays[spec.name] = _read(spec, array)
        elif not spec.optional:
            raise InvalidRequestError("inputs", f"{spec.name!r} is missing, which the model needs")
    if len(arrays) < len(inputs):
        known = listed(signature.inputs)
        unknown = next(name for name in inputs if name not in arrays)
        raise InvalidRequestError(f"inputs[{_shortened(unknown)}]", f"the model has no such input, only {known}")
    if signature.max_batch_size:
        _check_rows(signature, arrays)
    if nonfinite == "refuse":
        _check_numbers(signature, arrays)
    return rows_of(signature, arrays), _wanted(signature, request.outputs)


def _read(spec: TensorSpec, array: Array) -> Array:
    dtype = BY_NAME[spec.datatype].dtype
    if array.dtype != dtype:
        raise InvalidRequestError(f"inputs[{spec.name}].datatype", f"is {array.dtype}, expected {spec.datatype}")
    if len(array.shape) != len(spec.shape) or any(
        expected not in (-1, size) for size, expected in zip(array.shape, spec.shape, strict=True)
    ):
        shapes = f"is {list(array.shape)}, expected {list(spec.shape)}"
        raise InvalidRequestError(f"inputs[{spec.name}].shape", shapes)
    return _strings(spec.name, array) if spec.datatype == BYTES else array


def _strings(name: str, array: Array) -> Array:
    """What ONNX has for bytes is text."""
    strings = np.empty(array.size, object)
    try:
        strings[:] = [element.decode() for element in array.ravel()]
    except UnicodeDecodeError as error:
        description = "holds an element that is no UTF-8, which is all that ONNX knows"
        raise InvalidRequestError(f"inputs[{name}].contents", description) from error
    return strings.reshape(array.shape)


def _check_rows(signature: Signature, arrays: Tensors) -> None:
    rows = None
    for name, array in arrays.items():
        if rows is None:
            rows, first = len(array), name
        elif len(array) != rows:
            description = f"has {len(array)} rows, {first} has {rows}"
            raise InvalidRequestError(f"inputs[{name}].shape", description)
    if not rows:
        raise InvalidRequestError(f"inputs[{first}].shape", "has no rows: send at least one")
    if rows > signature.max_batch_size:
        description = f"has {rows} rows, the limit is {signature.max_batch_size}"
        raise InvalidRequestError(f"inputs[{first}].shape", description)


def _check_numbers(signature: Signature, arrays: Mapping[str, Array]) -> None:
    for spec in signature.inputs:
        if (array := arrays.get(spec.name)) is None or not floating(spec.datatype):
            continue
        numbers = finite(spec.datatype, array)
        if not numbers.all():
            place = np.unravel_index(int(numbers.argmin()), array.shape)
            raise InvalidRequestError(
                f"inputs[{spec.name}].contents",
                f"holds a NaN or an infinity at {[int(index) for index in place]}, which --nonfinite-inputs refuses",
            )


def _characters(request: TensorRequest, nonfinite: NonfiniteInputs) -> int:
    """How many characters are tokenized in the time in which a request is read. Numbers that are passed take none."""
    arrays = request.inputs.values()
    elements = sum([array.size for array in arrays if array.dtype.hasobject])
    numbers_bytes = sum([array.nbytes for array in arrays if not array.dtype.hasobject]) if nonfinite == "refuse" else 0
    return elements * _CHARACTERS_FOR_AN_ELEMENT + numbers_bytes // _BYTES_FOR_A_CHARACTER


def _wanted(signature: Signature, names: Sequence[str]) -> tuple[str, ...]:
    known = [each.name for each in signature.outputs]
    if not names:
        return tuple(known)
    for index, name in enumerate(names):
        if name not in known:
            there = listed(signature.outputs)
            raise InvalidRequestError(f"outputs[{index}].name", f"{_shortened(name)!r} is none; the model has {there}")
    return tuple(dict.fromkeys(names))


def listed(specs: Sequence[TensorSpec]) -> str:
    """The names of tensors, for an error: some of them where they are many, as statuses travel in headers."""
    names = [each.name for each in specs]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more or "none"


def _shortened(name: str) -> str:
    return name if len(name) <= _MOST_NAME_CHARACTERS else name[:_MOST_NAME_CHARACTERS] + "..."
