"""Any PyTorch module to a bundle, through Python: what the command cannot do, because it takes code to load one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray
from torch import Tensor, nn

from headwaiter_export.errors import GraphRejectedError, SpecialisedShapeError
from headwaiter_export.exporting import write_bundle
from headwaiter_export.inspection import tensors_of
from headwaiter_export.naming import name_outputs, unnamed
from headwaiter_export.parity import certify, scaled_difference
from headwaiter_export.progress import Progress, Silent
from headwaiter_export.runtime import Graph
from headwaiter_export.spec import GraphSpec
from headwaiter_export.spec import Tensor as TensorSpec
from headwaiter_export.tensors.manifest import MODEL_FILE, tensor_manifest, write_golden
from headwaiter_export.tensors.rows import BATCHES, Arrays, batch_of, batch_remark
from headwaiter_export.threads import one_thread
from headwaiter_export.tracing import trace, write_model

BATCH_AXIS: Final = "batch"
# Two different rows at least: tracing takes 0 and 1 for constants.
_TRACED_ROWS: Final = 3
# Those that numpy has too.
_FLOATS: Final = (torch.float16, torch.float32, torch.float64)
_DTYPES: Final = (*_FLOATS, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool)


def export_module(
    module: nn.Module,
    example_inputs: Sequence[Tensor],
    out: str | os.PathLike[str],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    axes: Mapping[str, Mapping[int, str]] | None = None,
    tolerance: float = 1e-5,
    force: bool = False,
    progress: Progress | None = None,
) -> bundle_pb2.Manifest:
    """Export a module to a verified bundle of task tensor.

    Args:
        module: Takes tensors and answers a tensor, or a tuple or list of them; the first axis of each is the batch.
            It is put into eval mode.
        example_inputs: What to trace with and to compare on; one row or more each.
        out: The bundle's folder, ending in NAME/VERSION.
        input_names: A name for each input.
        output_names: A name for each output.
        axes: Names of further axes that may have any length, by input and axis number; axes of one name have one
            length, which is at least 2 in the example. The first axis always may.
        tolerance: Largest difference from PyTorch, relative to the largest number where numbers exceed 1.
        force: Replace a bundle that is there.
        progress: Told about every stage.

    Returns:
        The manifest, as written.

    Raises:
        ExportError: The export failed; nothing is left at `out`, or what was there before.
    """
    _check_example(example_inputs, input_names, axes or {})
    dynamic = {name: {**(axes or {}).get(name, {}), 0: BATCH_AXIS} for name in input_names}
    inputs = tuple(
        TensorSpec(
            name,
            str(tensor.detach().numpy().dtype),
            tuple(dynamic[name].get(at, size) for at, size in enumerate(tensor.shape)),
        )
        for name, tensor in zip(input_names, example_inputs, strict=True)
    )
    outputs = tuple(TensorSpec(name, "float32", ()) for name in output_names)
    spec = GraphSpec(bundle_pb2.GRAPH_ROLE_MODEL, MODEL_FILE, inputs, outputs)
    example = {name: tensor.detach().numpy() for name, tensor in zip(input_names, example_inputs, strict=True)}

    def fill(folder: Path) -> bundle_pb2.Manifest:
        with one_thread():
            return _fill(module.eval(), example, spec, folder, tolerance, progress or Silent())

    return write_bundle(fill, out, force=force)


def _check_example(tensors: Sequence[Tensor], names: Sequence[str], axes: Mapping[str, Mapping[int, str]]) -> None:
    """Refuse an example that cannot be traced or compared on.

    Raises:
        GraphRejectedError: Saying what is wrong with it.
    """
    rows = {tensor.shape[0] for tensor in tensors if tensor.ndim}
    if len(tensors) != len(names) or any(tensor.ndim == 0 for tensor in tensors):
        raise GraphRejectedError(f"{len(names)} names of inputs stand beside {len(tensors)} tensors of rows")
    if len(rows) != 1 or rows == {0}:
        raise GraphRejectedError(f"the inputs of the example have {sorted(rows)} rows; each must have as many")
    if unknown := sorted({*axes} - {*names}):
        raise GraphRejectedError(f"axes are named of {', '.join(unknown)}, which is no input")
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dtype not in _DTYPES:
            raise GraphRejectedError(f"input {name} is of type {tensor.dtype}, which a request cannot hold")


def _fill(
    module: nn.Module, example: Arrays, spec: GraphSpec, folder: Path, tolerance: float, progress: Progress
) -> bundle_pb2.Manifest:
    progress.stage("graph")
    traced = tuple(torch.from_numpy(array) for array in batch_of(example, _TRACED_ROWS).values())
    model = trace(module, traced, unnamed(spec))
    if len(model.graph.output) != len(spec.outputs):
        raise GraphRejectedError(
            f"{len(spec.outputs)} names of outputs stand beside {len(model.graph.output)} outputs of the module"
        )
    name_outputs(model, [tensor.name for tensor in spec.outputs])
    spec = _with_outputs(spec, model)
    write_model(model, spec, folder)
    # From here on only the written bytes count.
    graph = Graph(folder / spec.file_name)
    batches = list(product(_shortened(spec, example), BATCHES))
    progress.stage("parity", len(batches))
    points = []
    for point in certify([_Batch(rows, size) for rows, size in batches], tolerance, partial(_measure, module, graph)):
        points.append(point)
        progress.advance()
    golden = batch_of(example, max(_TRACED_ROWS, len(next(iter(example.values())))))
    write_golden(folder, golden, dict(zip(graph.outputs, _answers(module, golden), strict=True)))
    certificate = bundle_pb2.ParityCertificate(tolerance=tolerance, points=points)
    remarks = [batch_remark(graph, example, tolerance)]
    return tensor_manifest(folder, type(module).__name__, spec, certificate, remarks)


class _Batch:
    """One batch to try."""

    def __init__(self, example: Arrays, size: int) -> None:
        self.feeds = batch_of(example, size)
        self.size = size

    def __str__(self) -> str:
        return ", ".join(f"{name} {list(array.shape)}" for name, array in self.feeds.items())


def _measure(module: nn.Module, graph: Graph, batch: _Batch) -> bundle_pb2.ParityPoint:
    found = list(graph.run(batch.feeds).values())
    wanted = _answers(module, batch.feeds)
    worst = max(scaled_difference(one, other) for one, other in zip(found, wanted, strict=True))
    return bundle_pb2.ParityPoint(batch=batch.size, max_abs_diff=worst)


@torch.inference_mode()
def _answers(module: nn.Module, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    answer = module(*(torch.from_numpy(array) for array in feeds.values()))
    tensors = answer if isinstance(answer, tuple | list) else (answer,)
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise GraphRejectedError("the module answers something other than a tensor, or a tuple or list of them")
    return [tensor.numpy() for tensor in tensors]


def _with_outputs(spec: GraphSpec, model: onnx.ModelProto) -> GraphSpec:
    """The spec with the outputs that tracing found.

    Raises:
        SpecialisedShapeError: An output's first axis is not the batch.
    """
    outputs = tensors_of(model.graph.output)
    for tensor in outputs:
        if tensor.shape[:1] != (BATCH_AXIS,):
            raise SpecialisedShapeError(
                f"{spec.file_name}: output {tensor.name} is {list(tensor.shape)}; its first axis must be the batch"
            )
    return GraphSpec(spec.role, spec.file_name, spec.inputs, outputs)


def _shortened(spec: GraphSpec, example: Arrays) -> list[Arrays]:
    """The example, and the same with every further dynamic axis cut to half."""
    cut = {
        tensor.name: [at for at, axis in enumerate(tensor.shape) if at and isinstance(axis, str)]
        for tensor in spec.inputs
    }
    if not any(cut.values()):
        return [example]
    shorter = {}
    for name, array in example.items():
        for at in cut[name]:
            array = np.take(array, np.arange((array.shape[at] + 1) // 2), at)  # noqa: PLW2901 (cut step by step)
        shorter[name] = array
    return [example, shorter]
