"""The bundle that computes nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from google.protobuf import json_format
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.model.bundle import read_bundle

from benchmarks.encoders.null_bundle import write_null_bundle

_DIMENSION = 4
_INPUTS = {"input_ids": "tokens", "position_ids": "tokens", "segment": "tokens", "text_starts": "texts"}


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A packed bundle, as far as the null bundle is made from it."""
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    vectors = np.arange(2 * _DIMENSION, dtype=np.float32).reshape(2, _DIMENSION)
    lengths = np.array([2, 3])
    np.savez(folder / "golden.npz", allow_pickle=False, lengths=lengths, embedding=vectors, unit_embedding=vectors)
    outputs = [bundle_pb2.TensorSpec(name=name, dtype="float32", shape=["texts", str(_DIMENSION)])
               for name in ("embedding", "unit_embedding")]  # fmt: skip
    inputs = [bundle_pb2.TensorSpec(name=name, dtype="int64", shape=[axis]) for name, axis in _INPUTS.items()]
    graph = bundle_pb2.Graph(
        role=bundle_pb2.GRAPH_ROLE_MODEL, file=bundle_pb2.File(name="model.onnx"), inputs=inputs, outputs=outputs
    )
    manifest = bundle_pb2.Manifest(
        format_version=1,
        embedding=bundle_pb2.Embedding(dimension=_DIMENSION),
        variants=[bundle_pb2.Variant(name="fp32", graphs=[graph]), bundle_pb2.Variant(name="int8")],
        files=[bundle_pb2.File(name="tokenizer.json"), bundle_pb2.File(name="golden.npz")],
    )
    (folder / "manifest.json").write_text(json_format.MessageToJson(manifest, preserving_proto_field_name=True))
    return folder


def test_it_takes_the_real_inputs_and_answers_each_text_alike(real: Path, tmp_path: Path) -> None:
    write_null_bundle(real, tmp_path / "models" / "minilm" / "1")
    session = onnxruntime.InferenceSession(tmp_path / "models" / "minilm" / "1" / "model.onnx")
    assert [each.name for each in session.get_inputs()] == list(_INPUTS)
    tokens = np.zeros(7, np.int64)
    feeds = {name: np.array([0, 2, 5]) if axis == "texts" else tokens for name, axis in _INPUTS.items()}
    embedding, unit = session.run(["embedding", "unit_embedding"], feeds)
    assert embedding.shape == unit.shape == (3, _DIMENSION)
    assert np.linalg.norm(unit, axis=1) == pytest.approx(1.0)


def test_the_server_takes_it_and_its_golden_answers_are_its_own(real: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "minilm" / "1"
    write_null_bundle(real, folder)
    bundle = read_bundle(folder, "fp32")
    assert [variant.name for variant in bundle.manifest.variants] == ["fp32"]
    assert bundle.tokenizer_json == (real / "tokenizer.json").read_text()
    assert bundle.golden["lengths"].tolist() == [2, 3]
    assert bundle.golden["embedding"].tolist() == np.ones((2, _DIMENSION)).tolist()
    graph = bundle.variant.graphs[0].file
    assert graph.sha256 == hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
