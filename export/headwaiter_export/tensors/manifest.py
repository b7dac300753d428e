"""The manifest of a tensor bundle, and its golden rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray

from headwaiter_export.bundle import FORMAT_VERSION, GOLDEN_FILE, file_entry, graph_entry, tool_versions
from headwaiter_export.spec import GraphSpec

MODEL_FILE = "model.onnx"


def tensor_manifest(
    folder: Path,
    architecture: str,
    spec: GraphSpec,
    certificate: bundle_pb2.ParityCertificate | None,
    remarks: Sequence[str],
) -> bundle_pb2.Manifest:
    """The manifest of a folder that holds the graph and its golden rows."""
    return bundle_pb2.Manifest(
        format_version=FORMAT_VERSION,
        task=bundle_pb2.TASK_TENSOR,
        architecture=architecture,
        graph_kind=bundle_pb2.GRAPH_KIND_PADDED,
        variants=[bundle_pb2.Variant(name="fp32", graphs=[graph_entry(spec, folder)], parity=certificate)],
        files=[file_entry(folder / GOLDEN_FILE)],
        tool_versions=tool_versions(),
        remarks=remarks,
    )


def write_golden(folder: Path, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
    """Rows and their answers, each array under the name of its input or output."""
    # Not np.savez, which takes arrays as keyword arguments beside its own: a graph may have an input named `file`.
    with ZipFile(folder / GOLDEN_FILE, "w") as archive:
        for name, array in {**inputs, **outputs}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
