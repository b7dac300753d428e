"""The models of the server that the dashboards are held to; one of them fails on a text that is known."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

# A text whose last token the fragile model turns into what is no number.
POISON = "xé"


def write_models(encoders: Path, pronounce: Path, folder: Path) -> Path:
    """A repository with a packed, a padded, a fragile and a generating model."""
    for source, name in (
        (encoders / "embed", "embed"),
        (encoders / "tag", "tag"),
        (encoders / "embed", "fragile"),
        (pronounce, "pronounce"),
    ):
        shutil.copytree(source / "1", folder / name / "1", ignore=shutil.ignore_patterns(".calibration"))
    _make_fragile(folder / "fragile" / "1")
    return folder


def _make_fragile(bundle: Path) -> None:
    """Let the last token of `POISON` be embedded as what is no number; the golden texts have none of it."""
    vocabulary = json.loads((bundle / "tokenizer.json").read_text())["model"]["vocab"]
    graph = onnx.load(bundle / "model.onnx")
    (words,) = (each for each in graph.graph.initializer if each.name.endswith("word_embeddings.weight"))
    table = numpy_helper.to_array(words).copy()
    table[vocabulary["##é"]] = np.nan
    words.CopyFrom(numpy_helper.from_array(table, words.name))
    data = graph.SerializeToString()
    (bundle / "model.onnx").write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    file = manifest["variants"][0]["graphs"][0]["file"]
    file["sha256"], file["size_bytes"] = hashlib.sha256(data).hexdigest(), str(len(data))
    (bundle / "manifest.json").write_text(json.dumps(manifest))
