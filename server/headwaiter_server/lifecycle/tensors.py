"""Models of tensors: what their graph and their configuration say together, and what their rows do in a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from headwaiter_proto.inference import model_config_pb2
from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.model_config import ModelSetup
from headwaiter_server.lifecycle.rows import check_golden, examples, judged
from headwaiter_server.model.contract import GraphTensor, Signature, TensorGraph, TensorSpec
from headwaiter_server.model.datatypes import BY_CONFIG, BY_ONNX_TYPE, Datatype
from headwaiter_server.model.tensors import TensorModel, TensorRows, Tensors, rows_of

# Of a model that takes rows and does not say how many: as many as a server takes into a batch by default.
DEFAULT_MAX_BATCH_SIZE: Final = 64
# Of the golden rows, so many are run alone and together at every start.
_JUDGED_ROWS: Final = 8
_ANY: Final = -1

_Declared = model_config_pb2.ModelInput | model_config_pb2.ModelOutput
_Axes = tuple[int | str | None, ...]


@dataclass(frozen=True)
class BuiltTensors:
    """A model of tensors that has run on its examples.

    Attributes:
        model: The model.
        build: Makes the same of its graph, opened anew.
        rows: So many rows, as a request would hold them; of a model without rows, its one example.
        runs: Whether it runs on its examples: a model without golden rows may not like random ones.
        remarks: What was found out, in words for people, for the log alone.
    """

    model: TensorModel
    build: Callable[[TensorGraph], TensorModel]
    rows: Callable[[int], TensorRows]
    runs: bool
    remarks: tuple[str, ...]


def build_tensors(
    graph: TensorGraph, listed: bundle_pb2.Graph, setup: ModelSetup, golden: Mapping[str, Any]
) -> BuiltTensors:
    """Build the model of a graph, and find out whether its rows may share runs.

    Args:
        graph: The graph.
        listed: What the manifest says of it; nothing for a graph without one.
        setup: What its configuration says.
        golden: Rows and their answers; none for a graph without a bundle.

    Raises:
        BundleError: The graph is of types that no request can hold, contradicts what is said of it, or computes
            something else than its golden answers.
    """
    _check_listed(listed, graph)
    batch_axis = _has_rows(graph)
    signature, reshapes = _signature(graph, setup, batch_axis=batch_axis)
    given = _golden(golden, graph.inputs, rows=batch_axis) if listed.inputs else {}
    if given:
        example = _as_requested(given, signature, reshapes)
        if batch_axis:
            example = {name: array[:_JUDGED_ROWS] for name, array in example.items()}
    else:
        example = examples(graph, signature, reshapes)
    verdict = judged(TensorModel(graph, signature, reshapes), example, certain=bool(given))
    if (
        verdict.signature != signature
        and setup.max_batch_size
        and verdict.signature.max_batch_size != setup.max_batch_size
    ):
        raise BundleError(f"max_batch_size: is {setup.max_batch_size}, but {verdict.remark}", verdict.said)
    if verdict.signature.max_batch_size != signature.max_batch_size:
        # Its first axis turned out to be none of rows: it has another signature altogether.
        without = replace(setup, max_batch_size=None)
        signature, reshapes = _signature(graph, without, batch_axis=bool(verdict.signature.max_batch_size))
        signature = replace(signature, max_batch_size=verdict.signature.max_batch_size)
    signature = replace(signature, joined=verdict.signature.joined)
    model = TensorModel(graph, signature, reshapes)
    if given:
        # All of them, as they were answered: the answers of rows that lean on one another are those of this batch.
        request = _as_requested(given, signature, reshapes)
        check_golden(model, request, _golden(golden, [each.name for each in signature.outputs], rows=batch_axis))
        example = example if signature.max_batch_size else request
    return BuiltTensors(
        model,
        partial(TensorModel, signature=signature, reshapes=reshapes),
        partial(_request_of, signature, example),
        verdict.runs,
        (*_unexposed(graph, signature), f"{verdict.remark}: {verdict.said}" if verdict.said else verdict.remark),
    )


def _golden(golden: Mapping[str, Any], names: Sequence[str], *, rows: bool) -> Tensors:
    """Tensors of the golden file."""
    for name in names:
        if name not in golden:
            raise BundleError(f"the golden file has no {name}")
        if rows and not np.ndim(golden[name]):
            raise BundleError(f"the golden file has one number for {name}, instead of rows")
    return {name: golden[name] for name in names}


def _request_of(signature: Signature, example: Tensors, rows: int) -> TensorRows:
    if not signature.max_batch_size:
        return rows_of(signature, example)
    return rows_of(signature, {name: array.take(range(rows), 0, mode="wrap") for name, array in example.items()})


def _as_requested(given: Tensors, signature: Signature, reshapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Golden inputs, which have the graph's shapes, in those that requests have."""
    if not reshapes:
        return given
    leading = 1 if signature.max_batch_size else 0
    shapes = {spec.name: spec.shape[leading:] for spec in signature.inputs}
    try:
        return {name: array.reshape((*array.shape[:leading], *shapes[name])) for name, array in given.items()}
    except ValueError as error:
        raise BundleError("the golden rows are not of the shapes of the configuration", error) from error


def _check_listed(listed: bundle_pb2.Graph, graph: TensorGraph) -> None:
    """Refuse a graph whose tensors are not those of the manifest."""
    found = {each.name: each for each in (*graph.input_tensors, *graph.output_tensors)}
    for tensor in (*listed.inputs, *listed.outputs):
        datatype = _datatype(found[tensor.name])
        if tensor.dtype != datatype.manifest_name:
            raise BundleError(f"{tensor.name} is of {datatype.manifest_name}, the manifest says {tensor.dtype}")
        said = tuple(int(axis) if axis.isdecimal() else axis for axis in tensor.shape)
        shape = found[tensor.name].shape
        # What onnxruntime finds out about an axis may be less than what the export knew.
        if len(said) != len(shape) or any(
            isinstance(one, int) and isinstance(other, int) and one != other
            for one, other in zip(said, shape, strict=True)
        ):
            raise BundleError(f"{tensor.name} is of shape {_shown(shape)}, the manifest says {_shown(said)}")


def _datatype(tensor: GraphTensor) -> Datatype:
    datatype = BY_ONNX_TYPE.get(tensor.onnx_type)
    if datatype is None:
        raise BundleError(f"{tensor.name} is of type {tensor.onnx_type}, which no request can hold")
    return datatype


def _has_rows(graph: TensorGraph) -> bool:
    """Whether every first axis may have any length, and one that no other axis has."""
    tensors = [*(each for each in graph.input_tensors if not each.optional), *graph.output_tensors]
    first = [each.shape[0] if each.shape else 0 for each in tensors]
    others = {axis for each in tensors for axis in each.shape[1:]}
    return (
        bool(graph.inputs)
        and not any(isinstance(axis, int) for axis in first)
        and not others.intersection(axis for axis in first if axis is not None)
    )


def _signature(
    graph: TensorGraph, setup: ModelSetup, *, batch_axis: bool
) -> tuple[Signature, dict[str, tuple[int, ...]]]:
    """What requests and answers hold, and the graph's own shapes where they are others."""
    config, limit = setup.config, setup.max_batch_size
    if limit and not batch_axis:
        raise BundleError(f"max_batch_size: is {limit}, but the first axis of the graph's tensors is none of rows")
    if not limit and batch_axis:
        limit = DEFAULT_MAX_BATCH_SIZE if _rows_left_out(graph, (*config.input, *config.output)) else 0
    limit = limit or 0
    reshapes: dict[str, tuple[int, ...]] = {}
    inputs = _specs("input", _exposed(graph, limit), list(config.input), reshapes, limit)
    outputs = _specs("output", graph.output_tensors, list(config.output), reshapes, limit)
    for tensor in graph.input_tensors:
        if not tensor.optional and tensor.name not in {each.name for each in inputs}:
            raise BundleError(f"input: {tensor.name} is missing, which the graph needs")
    return Signature(inputs, outputs, limit), reshapes


def _rows_left_out(graph: TensorGraph, declared: Sequence[_Declared]) -> bool:
    """Whether a configuration's dimensions leave out the first axis, as they do where it is the batch's."""
    axes = {each.name: len(each.shape) for each in (*graph.input_tensors, *graph.output_tensors)}
    return all(
        len(each.reshape.shape if each.HasField("reshape") else each.dims) == axes.get(each.name, 0) - 1
        for each in declared
    )


def _exposed(graph: TensorGraph, limit: int) -> list[GraphTensor]:
    """The inputs that requests may give: in a batch, only what has its rows."""
    rows = {each.shape[0] for each in graph.input_tensors if not each.optional and each.shape} - {None}
    return [
        each
        for each in graph.input_tensors
        if not each.optional or not limit or (bool(each.shape) and each.shape[0] in rows)
    ]


def _unexposed(graph: TensorGraph, signature: Signature) -> list[str]:
    exposed = _exposed(graph, signature.max_batch_size)
    kept = [each.name for each in graph.input_tensors if each not in exposed]
    return [f"{', '.join(kept)}: no rows, so that requests cannot give it, and its default holds"] if kept else []


def _specs(
    kind: str,
    tensors: Sequence[GraphTensor],
    declared: Sequence[_Declared],
    reshapes: dict[str, tuple[int, ...]],
    limit: int,
) -> tuple[TensorSpec, ...]:
    leading = (_ANY,) if limit else ()
    by_name = {each.name: each for each in tensors}
    if not declared:
        return tuple(
            TensorSpec(each.name, _datatype(each).name, leading + _sizes(each.shape[len(leading) :]), each.optional)
            for each in tensors
        )
    specs = []
    for each in declared:
        tensor = by_name.pop(each.name, None)
        if tensor is None:
            raise BundleError(f"{kind}: the graph has no {kind} {each.name!r}, or it stands there twice")
        datatype = _datatype(tensor)
        if each.data_type != datatype.config:
            said = BY_CONFIG[each.data_type].name if each.data_type in BY_CONFIG else "of no type"
            raise BundleError(f"{kind} {each.name}: data_type is {said}, the graph says {datatype.name}")
        optional = isinstance(each, model_config_pb2.ModelInput) and each.optional
        if optional and not tensor.optional:
            raise BundleError(f"{kind} {each.name}: is optional, but the graph has no value for it")
        dims = tuple(each.dims)
        own = tuple(each.reshape.shape) if each.HasField("reshape") else dims
        axes = _sizes(tensor.shape[len(leading) :])
        if any(size < _ANY or size == 0 for size in (*dims, *own)):
            raise BundleError(f"{kind} {each.name}: dims are {list(dims)}; sizes are numbers from 1 on, or -1 for any")
        if len(own) != len(axes) or any(axis not in (_ANY, size) for size, axis in zip(own, axes, strict=True)):
            raise BundleError(f"{kind} {each.name}: dims are {list(own)}, the graph says {list(axes)}")
        if each.HasField("reshape"):
            _check_reshape(f"{kind} {each.name}", dims, own)
            reshapes[each.name] = own if kind == "input" else dims
        specs.append(TensorSpec(each.name, datatype.name, leading + dims, tensor.optional))
    return tuple(specs)


def _check_reshape(what: str, dims: tuple[int, ...], own: tuple[int, ...]) -> None:
    unknown = dims.count(_ANY), own.count(_ANY)
    if unknown not in ((0, 0), (1, 1)) or _product(dims) != _product(own):
        raise BundleError(f"{what}: reshape from {list(dims)} to {list(own)} is none of as many elements")


def _product(sizes: tuple[int, ...]) -> int:
    product = 1
    for size in sizes:
        product *= abs(size)
    return product


def _sizes(axes: _Axes) -> tuple[int, ...]:
    return tuple(axis if isinstance(axis, int) else _ANY for axis in axes)


def _shown(axes: _Axes) -> str:
    return "[" + ", ".join("?" if axis is None else str(axis) for axis in axes) + "]"
