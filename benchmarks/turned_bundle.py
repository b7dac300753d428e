"""A bundle whose vectors are those of another turned round: as fast, as large, and never to be mistaken for it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnx
from google.protobuf import json_format
from headwaiter_proto.v1 import bundle_pb2
from onnx import helper


def write_turned_bundle(real: Path, folder: Path) -> None:
    """Write a bundle whose graph negates its answers at the end.

    Args:
        real: A bundle of an embed model.
        folder: Where to write, `MODELS/NAME/VERSION`.
    """
    manifest = json_format.Parse((real / "manifest.json").read_text(encoding="utf-8"), bundle_pb2.Manifest())
    graph = manifest.variants[0].graphs[0]
    outputs = [each.name for each in graph.outputs]
    folder.mkdir(parents=True)
    shutil.copy(real / "tokenizer.json", folder)
    model = onnx.load(real / graph.file.name)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}_before" if name in outputs else name for name in names]
    model.graph.node.extend(helper.make_node("Neg", [f"{name}_before"], [name]) for name in outputs)
    (folder / graph.file.name).write_bytes(model.SerializeToString())
    with np.load(real / "golden.npz", allow_pickle=False) as archive:
        golden = {name: -archive[name] if name in outputs else archive[name] for name in archive.files}
    np.savez(folder / "golden.npz", allow_pickle=False, **golden)
    del manifest.variants[1:]
    for file in (graph.file, *manifest.files):
        content = (folder / file.name).read_bytes()
        file.size_bytes, file.sha256 = len(content), hashlib.sha256(content).hexdigest()
    text = json_format.MessageToJson(manifest, preserving_proto_field_name=True)
    (folder / "manifest.json").write_text(text, encoding="utf-8")
