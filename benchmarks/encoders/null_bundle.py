"""A bundle that computes nothing, so that what is left is the server's own cost.

Everything but the graph is the real bundle's, its tokenizer above all; the graph takes the same inputs and answers each
text with the same vector.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path

import numpy as np
from google.protobuf import json_format
from headwaiter_proto.v1 import bundle_pb2
from onnx import TensorProto, helper

_OPSET, _IR_VERSION = 20, 9
_ELEMENT_TYPES = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}


def write_null_bundle(real: Path, folder: Path) -> None:
    """Write a bundle beside which only its graph, golden answers and digests differ from the real one.

    Args:
        real: A packed bundle of an embed model.
        folder: Where to write, `MODELS/NAME/VERSION`.
    """
    manifest = json_format.Parse((real / "manifest.json").read_text(encoding="utf-8"), bundle_pb2.Manifest())
    variant = manifest.variants[0]
    graph = variant.graphs[0]
    folder.mkdir(parents=True)
    shutil.copy(real / "tokenizer.json", folder)
    dimension = manifest.embedding.dimension
    # The second is normalised, as its name promises.
    values = {"embedding": 1.0, "unit_embedding": 1.0 / math.sqrt(dimension)}
    (folder / graph.file.name).write_bytes(_constant_graph(graph, dimension, values))
    with np.load(real / "golden.npz", allow_pickle=False) as archive:
        golden = {name: np.full_like(archive[name], values.get(name, 0)) if name in values else archive[name]
                  for name in archive.files}  # fmt: skip
    np.savez(folder / "golden.npz", allow_pickle=False, **golden)
    del manifest.variants[1:]
    for file in (graph.file, *manifest.files):
        content = (folder / file.name).read_bytes()
        file.size_bytes, file.sha256 = len(content), hashlib.sha256(content).hexdigest()
    text = json_format.MessageToJson(manifest, preserving_proto_field_name=True)
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def _constant_graph(graph: bundle_pb2.Graph, dimension: int, values: dict[str, float]) -> bytes:
    """As many rows as there are `text_starts`, all alike."""
    nodes = [
        helper.make_node("Shape", ["text_starts"], ["texts"]),
        helper.make_node("Constant", [], ["dimension"], value_ints=[dimension]),
        helper.make_node("Concat", ["texts", "dimension"], ["shape"], axis=0),
    ]
    for name, value in values.items():
        filling = helper.make_tensor(f"{name}_value", TensorProto.FLOAT, [1], [value])
        nodes.append(helper.make_node("ConstantOfShape", ["shape"], [name], value=filling))
    inputs, outputs = (
        [helper.make_tensor_value_info(each.name, _ELEMENT_TYPES[each.dtype], _axes(each)) for each in tensors]
        for tensors in (graph.inputs, graph.outputs)
    )
    opset = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(
        helper.make_graph(nodes, "null", inputs, outputs), opset_imports=opset, ir_version=_IR_VERSION
    )
    content: bytes = model.SerializeToString()
    return content


def _axes(tensor: bundle_pb2.TensorSpec) -> list[int | str]:
    return [int(axis) if axis.isdecimal() else axis for axis in tensor.shape]
