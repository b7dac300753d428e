"""Rows of a model of tensors: made up where none are known, and run alone and together to see whether they may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from headwaiter_server.errors import BundleError
from headwaiter_server.model.contract import Array, Signature, TensorGraph, TensorSpec
from headwaiter_server.model.datatypes import BF16, BY_NAME, BYTES
from headwaiter_server.model.tensors import TensorModel, Tensors, rows_of

# Another processor may sum in another order; numbers of 16 bits are as far apart as that by themselves.
_GOLDEN_TOLERANCE: Final = 1e-3
_HALF_GOLDEN_TOLERANCE: Final = 1e-2
# The same row alone and beside others, on one processor.
_BATCH_TOLERANCE: Final = 1e-5
_HALVES: Final = frozenset({"FP16", BF16})
_ROWS: Final = 3
# Of rows of next to nothing it takes more for two of them to differ.
_SMALL_ROWS: Final = 8
_SMALL_ROW_ELEMENTS: Final = 4
# Nothing that a server takes in one message is as large as this.
_MOST_EXAMPLE_BYTES: Final = 1 << 30
# Lengths to try for axes of no fixed one; a graph may want a certain one.
_LENGTHS: Final = (8, 16, 1, 32, 64, 128, 224)
# What the worst of batch-mates may hold, as FP32 and as the bits of BF16. For half precision the large one is infinite.
_POISON: Final = ((np.nan, 0x7FC0), (np.inf, 0x7F80), (-np.inf, 0xFF80), (1e30, 0x714A))
_BF16_BITS: Final = 16
# Of one string, about.
_STRING_BYTES: Final = 64


@dataclass(frozen=True)
class Verdict:
    """What rows did.

    Attributes:
        signature: The model's, with what was found out about its rows.
        remark: The same in words.
        runs: Whether it ran at all.
        said: What onnxruntime said to it, for the log alone; see `BundleError`.
    """

    signature: Signature
    remark: str
    runs: bool = True
    said: str = ""


def examples(graph: TensorGraph, signature: Signature, reshapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Random rows, of the first lengths that the graph takes; if it takes none, of the smallest.

    Args:
        graph: The graph.
        signature: What requests hold.
        reshapes: Inputs whose shape in requests is not the graph's.

    Raises:
        BundleError: The smallest are larger than any request.
    """
    model = TensorModel(graph, signature, reshapes)
    wanted = tuple(each.name for each in signature.outputs)
    for length in _LENGTHS:
        if _bytes(signature, length) > _MOST_EXAMPLE_BYTES:
            continue
        rows = _random(signature, length)
        try:
            model.run([rows_of(signature, rows)], [wanted])
        except Exception:  # noqa: BLE001, S112 - whatever a graph does not like about it
            continue
        return rows
    if (size := _bytes(signature, min(_LENGTHS))) > _MOST_EXAMPLE_BYTES:
        raise BundleError(f"the inputs of {_row_count(signature)} rows take {size} bytes, which no request can hold")
    return _random(signature, min(_LENGTHS))


def judged(model: TensorModel, example: Tensors, *, certain: bool) -> Verdict:
    """Run rows alone and together, and beside the worst of mates.

    Args:
        model: The model; its signature says what is to be found out.
        example: Rows; of a model without rows, one request.
        certain: Whether it must run on them.

    Raises:
        BundleError: It does not, although it must.
    """
    signature = model.signature
    unjoined = replace(signature, joined=False)
    try:
        if not signature.max_batch_size:
            _answers(model, [example])
            return Verdict(unjoined, "the first axis is none of rows: each request runs alone")
        rows = [{name: array[row : row + 1] for name, array in example.items()} for row in range(_count(example))]
        alone = [_answers(model, [row])[0] for row in rows]
    except Exception as error:
        if certain:
            raise BundleError("the graph does not run on the golden rows", error) from error
        remark = "the graph does not run on random rows, so each request runs alone"
        return Verdict(unjoined, remark, runs=False, said=str(error))
    if any(answer.shape[:1] != (1,) for answers in alone for answer in answers.values()):
        return Verdict(
            replace(unjoined, max_batch_size=0), "the first axis is none of rows: one row is not answered by one row"
        )
    try:
        together = _answers(model, rows)
    except Exception as error:  # noqa: BLE001 - whatever a graph does not like about it
        remark = f"the graph does not run on {len(rows)} rows, but one by one"
        return Verdict(replace(unjoined, max_batch_size=1), remark, said=str(error))
    reason = _reason_against(model, rows, alone, together)
    if reason:
        return Verdict(unjoined, f"{reason}: rows of several requests are never joined")
    return Verdict(signature, "a row is answered the same alone and in a batch")


def check_golden(model: TensorModel, example: Tensors, expected: Mapping[str, Array]) -> None:
    """Hold a model to the answers of the machine that exported it.

    Raises:
        BundleError: It gives others.
    """
    datatypes = {each.name: each.datatype for each in model.signature.outputs}
    try:
        found = _answers(model, [example])[0]
        differences = {
            name: _difference(datatypes[name], answer.reshape(expected[name].shape), expected[name])
            for name, answer in found.items()
        }
    except Exception as error:
        # Whatever a strange file makes numpy or onnxruntime raise: the bundle does not serve.
        raise BundleError("the golden answers cannot be compared", error) from error
    for name, difference in differences.items():
        limit = _HALF_GOLDEN_TOLERANCE if datatypes[name] in _HALVES else _GOLDEN_TOLERANCE
        if not difference <= limit:  # not <=: a NaN is no match
            raise BundleError(
                f"this processor computes something else than the exporting one: largest difference of {name} "
                f"{difference:.2g} (limit {limit})"
            )


def _reason_against(
    model: TensorModel, rows: Sequence[Tensors], alone: Sequence[Tensors], together: Sequence[Tensors]
) -> str:
    """Why rows may not share a run; nothing if they may."""
    datatypes = {each.name: each.datatype for each in model.signature.outputs}
    if all(np.array_equal(row[name], rows[0][name]) for row in rows[1:] for name in row):
        # They may lean on one another unseen: their mean is each of them.
        return "whether a row's answer depends on its batch is not known: the examples are all alike"
    if not all(_all_finite(datatypes[name], answer) for answers in alone for name, answer in answers.items()):
        return "whether a row's answer depends on its batch is not known: the examples are answered by NaN or infinity"
    backwards = _answers(model, rows[::-1])[::-1]
    for answers in (together, backwards):
        difference = _largest(datatypes, answers, alone)
        if not difference <= _BATCH_TOLERANCE:
            return f"a row's answer depends on its batch, by {difference:.2g}"
    for mate, value in _poisoned(model.signature, rows[0]):
        try:
            beside = _answers(model, [*rows, mate])[: len(rows)]
        except Exception:  # noqa: BLE001, S112 - who is answered by an error is told apart from its mates
            continue
        difference = _largest(datatypes, beside, alone)
        if not difference <= _BATCH_TOLERANCE:
            return f"a row's answer depends on a batch-mate that holds {value}, by {difference:.2g}"
    return ""


def _poisoned(signature: Signature, row: Tensors) -> list[tuple[Tensors, float]]:
    mates = []
    for value, bits in _POISON:
        with np.errstate(over="ignore"):
            mate = {
                spec.name: np.full_like(row[spec.name], bits if spec.datatype == BF16 else value)
                if spec.datatype == BF16 or BY_NAME[spec.datatype].dtype.kind == "f"
                else row[spec.name]
                for spec in signature.inputs
                if spec.name in row
            }
        if any(mate[name] is not row[name] for name in mate):
            mates.append((mate, value))
    return mates


def _answers(model: TensorModel, requests: Sequence[Tensors]) -> list[Tensors]:
    wanted = tuple(each.name for each in model.signature.outputs)
    return model.run([rows_of(model.signature, each) for each in requests], [wanted] * len(requests))


def _count(example: Tensors) -> int:
    return min(len(array) for array in example.values())


def _largest(datatypes: Mapping[str, str], found: Sequence[Tensors], expected: Sequence[Tensors]) -> float:
    return float(
        np.max(
            [
                _difference(datatypes[name], one[name], other[name])
                for one, other in zip(found, expected, strict=True)
                for name in other
            ]
        )
    )


def _difference(datatype: str, found: Array, expected: Array) -> float:
    """The largest difference, absolute up to 1 and relative beyond; infinite where what is no number is another."""
    if found.shape != expected.shape:
        raise ValueError(f"an answer of shape {found.shape} against {expected.shape}")
    first, second = _numbers(datatype, found), _numbers(datatype, expected)
    if first is None or second is None:
        return 0.0 if np.array_equal(found, expected) else np.inf
    finite = np.isfinite(second)
    if not np.array_equal(first[~finite], second[~finite], equal_nan=True):
        return np.inf
    return float(np.max(np.abs(first[finite] - second[finite]) / np.maximum(1.0, np.abs(second[finite])), initial=0.0))


def _all_finite(datatype: str, array: Array) -> bool:
    numbers = _numbers(datatype, array)
    return numbers is None or bool(np.isfinite(numbers).all())


def _numbers(datatype: str, array: Array) -> Array | None:
    """As FP64, where the elements are floating numbers."""
    if datatype == BF16:
        return (array.astype(np.uint32) << _BF16_BITS).view(np.float32).astype(np.float64)
    return array.astype(np.float64) if BY_NAME[datatype].dtype.kind == "f" else None


def _random(signature: Signature, length: int) -> Tensors:
    """Some rows, or a request without rows; every axis of no fixed length has this one."""
    generator = np.random.default_rng(0)
    return {
        spec.name: _values(generator, spec.datatype, _sizes(signature, spec, length))
        for spec in signature.inputs
        if not spec.optional
    }


def _sizes(signature: Signature, spec: TensorSpec, length: int) -> tuple[int, ...]:
    rows = (_row_count(signature),) if signature.max_batch_size else ()
    return (*rows, *(length if size < 0 else size for size in spec.shape[len(rows) :]))


def _row_count(signature: Signature) -> int:
    if not signature.max_batch_size:
        return 1
    small = all(math.prod(map(abs, spec.shape)) <= _SMALL_ROW_ELEMENTS for spec in signature.inputs)
    return _SMALL_ROWS if small else _ROWS


def _bytes(signature: Signature, length: int) -> int:
    return sum(
        math.prod(_sizes(signature, spec, length)) * (BY_NAME[spec.datatype].size_bytes or _STRING_BYTES)
        for spec in signature.inputs
        if not spec.optional
    )


def _values(generator: np.random.Generator, datatype: str, sizes: Sequence[int]) -> Array:
    """Elements that mean something to any model: floats around 0, whole numbers that are 0 or 1, short words."""
    if datatype == BF16:
        return (np.asarray(generator.standard_normal(sizes, np.float32)).view(np.uint32) >> _BF16_BITS).astype(
            np.uint16
        )
    dtype = BY_NAME[datatype].dtype
    if dtype.kind == "f":
        return np.asarray(generator.standard_normal(sizes)).astype(dtype)
    numbers = np.asarray(generator.integers(0, 2, sizes))
    if datatype == BYTES:
        return np.where(numbers, "yes", "no").astype(object)
    return numbers.astype(dtype)
