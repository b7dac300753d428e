"""Recipe for ONNX files that are there already: checked, loaded, run, and put into a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray
from onnx.external_data_helper import load_external_data_for_model

from headwaiter_export.architectures import Options
from headwaiter_export.errors import CorruptCheckpointError, GraphRejectedError, UnknownArchitectureError
from headwaiter_export.inspection import tensors_of
from headwaiter_export.progress import Progress
from headwaiter_export.runtime import Graph
from headwaiter_export.spec import GraphSpec, Tensor
from headwaiter_export.tensors.manifest import MODEL_FILE, tensor_manifest, write_golden
from headwaiter_export.tensors.rows import Arrays, batch_remark
from headwaiter_export.tracing import write_model

DEFAULT_TOLERANCE: Final = 1e-5
# Lengths to try for axes of no fixed one; a graph may want a certain one.
_LENGTHS: Final = (8, 16, 1, 32, 64, 128, 224)
_ROWS: Final = 3


def export(source: Path, folder: Path, options: Options, progress: Progress) -> bundle_pb2.Manifest:
    """Fill `folder` and return its manifest; see `architectures.Recipe`.

    Raises:
        ExportError: Any of its kinds but OutputError.
    """
    if options.task not in ("auto", "tensor"):
        raise UnknownArchitectureError(f"an ONNX file is a model of tensors; there is no task {options.task!r}")
    options.check_unused("ONNX files are taken as they are", "graph", "max_tokens", "words")
    progress.stage("load")
    model = read_model(source)
    stored = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in stored]  # the others have a default
    spec = GraphSpec(bundle_pb2.GRAPH_ROLE_MODEL, MODEL_FILE, tensors_of(given), tensors_of(model.graph.output))
    del model.graph.input[:]
    model.graph.input.extend(given)
    write_model(model, spec, folder)
    # From here on only the written bytes count.
    graph = Graph(folder / spec.file_name)
    progress.stage("run")
    inputs, outputs = _run(graph, spec)
    _check_outputs(spec, outputs)
    write_golden(folder, inputs, outputs)
    tolerance = DEFAULT_TOLERANCE if options.tolerance is None else options.tolerance
    remarks = [f"{source.name} came as it is: there was no PyTorch model to compare it with"]
    if _has_rows(spec):
        remarks.append(batch_remark(graph, inputs, tolerance))
    else:
        remarks.append("not every first axis is one of rows: those of several requests cannot be put into one batch")
    for remark in remarks:
        progress.note(remark)
    return tensor_manifest(folder, source.stem, spec, None, remarks)


def read_model(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file; weights in files beside it are taken in.

    Raises:
        CorruptCheckpointError: It is not a valid model, or its weights are not where it says.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        # Initializers and the constants of nodes; onnx itself refuses paths that lead out of the folder.
        load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, onnx and the disk raise kinds of their own
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CorruptCheckpointError(f"{path}: not a valid ONNX model: {line}") from error
    return model


def _run(graph: Graph, spec: GraphSpec) -> tuple[Arrays, Arrays]:
    """Random rows and their answers, of the first lengths that the graph takes."""
    failure: GraphRejectedError | None = None
    for length in _LENGTHS:
        inputs = _random(spec, length)
        try:
            return inputs, graph.run(inputs)
        except GraphRejectedError as error:
            failure = failure or error
    raise failure or GraphRejectedError(f"{graph.file_name}: nothing to run")


def _has_rows(spec: GraphSpec) -> bool:
    """Whether every first axis has any length, and one that no other axis has."""
    tensors = (*spec.inputs, *spec.outputs)
    first = {tensor.shape[0] if tensor.shape else 0 for tensor in tensors}
    others = {axis for tensor in tensors for axis in tensor.shape[1:]}
    return all(isinstance(axis, str) for axis in first) and not first & others


def _check_outputs(spec: GraphSpec, outputs: Arrays) -> None:
    """Refuse what a bundle cannot hold, or the file says wrongly."""
    for tensor in spec.outputs:
        found = outputs[tensor.name]
        if np.dtype(tensor.dtype).kind not in "fiub":
            raise GraphRejectedError(f"{MODEL_FILE}: output {tensor.name} is of type {tensor.dtype}, not of numbers")
        if found.ndim != len(tensor.shape):
            said, came = list(tensor.shape), list(found.shape)
            raise GraphRejectedError(f"{MODEL_FILE}: output {tensor.name} is said to be {said} and comes as {came}")


def _random(spec: GraphSpec, length: int) -> Arrays:
    generator = np.random.default_rng(0)
    # An axis has one length wherever its name stands.
    rows = {tensor.shape[0] for tensor in spec.inputs if tensor.shape}
    return {tensor.name: _values(generator, tensor, _sizes(tensor, rows, length)) for tensor in spec.inputs}


def _sizes(tensor: Tensor, rows: set[int | str], length: int) -> tuple[int, ...]:
    return tuple(axis if isinstance(axis, int) else _ROWS if axis in rows else length for axis in tensor.shape)


def _values(generator: np.random.Generator, tensor: Tensor, sizes: tuple[int, ...]) -> NDArray[Any]:
    """Numbers that mean something to any model: floats around 0, whole numbers that are 0 or 1."""
    dtype = np.dtype(tensor.dtype)
    if dtype.kind == "f":
        return np.asarray(generator.standard_normal(sizes)).astype(dtype)
    if dtype.kind in "iub":
        return np.asarray(generator.integers(0, 2, sizes)).astype(dtype)
    raise GraphRejectedError(f"{MODEL_FILE}: input {tensor.name} is of type {tensor.dtype}, not of numbers")
