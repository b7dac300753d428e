"""One torch module to one ONNX file that is what its spec says."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import onnx
import torch
from torch import nn
from torch.export import Dim

from headwaiter_export.errors import GraphRejectedError, SpecialisedShapeError
from headwaiter_export.inspection import check_axes, check_names
from headwaiter_export.spec import GraphSpec

# The newest that onnxruntime 1.22, the oldest supported, loads.
OPSET: Final = 22
# Of a graph's weights: a file of protobuf ends at 2 GiB, and the rest of the graph needs some room.
MOST_BYTES: Final = 2**31 - 2**24


def write_graph(module: nn.Module, example: Any, spec: GraphSpec, folder: Path) -> None:  # noqa: ANN401 (any nest of tensors)
    """Trace a module and write `folder / spec.file_name`; see `trace`."""
    write_model(trace(module, example, spec), spec, folder)


def write_model(model: onnx.ModelProto, spec: GraphSpec, folder: Path) -> None:
    """Hold a graph to its spec and write `folder / spec.file_name`.

    Raises:
        SpecialisedShapeError: An input or output is not what the spec says.
        NameClashError: Two values have the same name.
        GraphRejectedError: It does not fit into a file.
    """
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > MOST_BYTES:
        raise GraphRejectedError(
            f"{spec.file_name}: its weights take {size:,} bytes, and a graph is one file with at most {MOST_BYTES:,}"
        )
    check_names(model, spec.file_name)
    check_axes(model, spec)
    (folder / spec.file_name).write_bytes(model.SerializeToString(deterministic=True))


def trace(module: nn.Module, example: Any, spec: GraphSpec) -> onnx.ModelProto:  # noqa: ANN401 (any nest of tensors)
    """Trace a module to a graph with the names of the spec; nothing is checked yet.

    Args:
        module: What the graph computes; its outputs in the order of the spec.
        example: The positional arguments of one call, tuples and lists of tensors whose leaves are the
            spec's inputs in order. Dynamic axes must be longer than 1 here and differ from one another:
            tracing takes 0 and 1 for constants.
        spec: The graph's signature.

    Raises:
        SpecialisedShapeError: The exporter says that it fixed an axis that the spec names.
        GraphRejectedError: The module cannot be traced.
    """
    dims = {axis: Dim(axis) for tensor in spec.inputs for axis in tensor.shape if isinstance(axis, str)}
    leaves = iter(spec.inputs)

    def dynamic(nest: Any) -> Any:  # noqa: ANN401 (follows `example`)
        if isinstance(nest, torch.Tensor):
            return {at: dims[axis] for at, axis in enumerate(next(leaves).shape) if isinstance(axis, str)}
        return type(nest)(dynamic(each) for each in nest)

    try:
        with _silence():
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                dynamic_shapes=dynamic(example),
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
            )
    except Exception as error:
        raise _explained(error, spec.file_name) from error
    if program is None:
        raise GraphRejectedError(f"{spec.file_name}: torch.onnx.export gave no graph")
    model = program.model_proto
    _strip(model)
    return model


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hide what the exporter says about itself and its user cannot act on; exceptions pass."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        # What cannot be traced is also printed, as a whole graph.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _explained(error: Exception, file_name: str) -> GraphRejectedError | SpecialisedShapeError:
    """The exporter wraps the cause several times over; the innermost exception says what happened."""
    causes = [error]
    while (inner := causes[-1].__cause__ or causes[-1].__context__) is not None and isinstance(inner, Exception):
        causes.append(inner)
    for cause in causes:
        text = str(cause)
        if "specialized" in text or "Constraints violated" in text:
            line = next(line for line in text.splitlines() if "specialized" in line or "Constraints" in line)
            return SpecialisedShapeError(f"{file_name}: the exporter fixed a dynamic axis: {line.strip(' -')}")
    lines = str(causes[-1]).strip().splitlines() or [type(causes[-1]).__name__]
    return GraphRejectedError(f"{file_name}: cannot be traced: {lines[0]}")


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's debugging notes: stack traces with paths of the machine the export ran on."""
    graph = model.graph
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
