"""The checks of a bundle are made when it is loaded, on whatever onnxruntime says the graphs are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.building import build_model
from headwaiter_server.model.onnx import OnnxGraph

from .repositories import find_bundles


def rename_input(manifest: dict[str, Any]) -> None:
    manifest["variants"][0]["graphs"][1]["inputs"][0]["name"] = "other"


def pad(manifest: dict[str, Any]) -> None:
    manifest["graphKind"] = "GRAPH_KIND_PADDED"


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (pad, "manifest.json: this server does not generate with graphs of kind 1"),
        (rename_input, "GRAPH_ROLE_DECODER: of its inputs and outputs input_ids are missing, and other are not known"),
    ],
)
def test_bundle_that_is_not_understood_does_not_serve(
    models_dir: Path, tmp_path: Path, alter: Callable[[dict[str, Any]], None], words: str
) -> None:
    """A real bundle whose manifest was altered in a word is refused, with where it lies."""
    shutil.copytree(models_dir / "pronounce", tmp_path / "pronounce")
    (location,) = find_bundles(tmp_path)
    path = location.folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    alter(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(BundleError, match=words) as caught:
        build_model(location, "fp32", lambda name, graph: OnnxGraph.load(name, graph, 1))
    assert str(location.folder) in str(caught.value)
