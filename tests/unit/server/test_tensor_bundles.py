"""Bundles of tensors: what their manifest says is held to the graph, and their golden rows to this processor."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.building import digest_of
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.lifecycle.subject import TensorSubject
from headwaiter_server.model.contract import Array, TensorSpec

from .tensor_graphs import built, centred, doubled

X = np.arange(15, dtype=np.float32).reshape(5, 3) / 7


class Made:
    """A bundle of `doubled`, as an export writes it, to be altered before it is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.golden: dict[str, Array] = {"x": X, "double": 2 * X, "sum": X.sum(1)}
        self.graph = doubled().SerializeToString()
        tensors = {"x": ["batch", "length"], "double": ["batch", "length"], "sum": ["batch"]}
        specs = [bundle_pb2.TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in tensors.items()]
        listed = bundle_pb2.Graph(role=bundle_pb2.GRAPH_ROLE_MODEL, inputs=specs[:1], outputs=specs[1:])
        self.manifest = bundle_pb2.Manifest(
            format_version=1,
            task=bundle_pb2.TASK_TENSOR,
            architecture="Doubler",
            graph_kind=bundle_pb2.GRAPH_KIND_PADDED,
            variants=[bundle_pb2.Variant(name="fp32", graphs=[listed])],
        )

    @property
    def listed(self) -> bundle_pb2.Graph:
        """What the manifest says of the graph."""
        return self.manifest.variants[0].graphs[0]

    def load(self) -> TensorSubject:
        """Write it, and build its model."""
        archive = io.BytesIO()
        np.savez(archive, **self.golden)  # type: ignore[arg-type]  # arrays are no flag
        files = {"model.onnx": self.graph, "golden.npz": archive.getvalue()}
        self.folder.mkdir(parents=True)
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
        entries = {
            name: bundle_pb2.File(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in files.items()
        }
        self.listed.file.CopyFrom(entries["model.onnx"])
        self.manifest.files.append(entries["golden.npz"])
        (self.folder / "manifest.json").write_text(json_format.MessageToJson(self.manifest))
        subject = built(BundleLocation("m", 1, self.folder)).body
        assert isinstance(subject, TensorSubject)
        return subject


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "m" / "1")


def test_bundle_serves_by_its_golden_rows(made: Made) -> None:
    subject = made.load()
    assert subject.signature.inputs == (TensorSpec("x", "FP32", (-1, -1)),)
    assert subject.signature.outputs == (TensorSpec("double", "FP32", (-1, -1)), TensorSpec("sum", "FP32", (-1,)))
    assert (subject.signature.max_batch_size, subject.signature.joined) == (64, True)
    np.testing.assert_array_equal(subject.make_text(7).arrays["x"], X[[0, 1, 2, 3, 4, 0, 1]])


def test_bundle_without_rows_is_held_to_its_whole_request(made: Made) -> None:
    """Its first axis is longer than the golden rows that are computed of others."""
    x = np.arange(60, dtype=np.float32).reshape(20, 3)
    made.graph = doubled((20, 3)).SerializeToString()
    made.golden = {"x": x, "double": 2 * x, "sum": x.sum(1)}
    for tensor, shape in zip(
        (*made.listed.inputs, *made.listed.outputs), (["20", "3"], ["20", "3"], ["20"]), strict=True
    ):
        tensor.shape[:] = shape
    subject = made.load()
    assert subject.signature.max_batch_size == 0
    assert subject.make_text(1).arrays["x"] is not None


def test_rows_that_lean_on_one_another_are_held_to_their_batch(made: Made) -> None:
    """To all of it: of fewer rows the mean is another."""
    x = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    made.graph = centred().SerializeToString()
    made.golden = {"x": x, "y": x - x.mean(0)}
    del made.listed.outputs[:]
    made.listed.inputs[0].shape[:] = ["batch", "4"]
    made.listed.outputs.add(name="y", dtype="float32", shape=["batch", "4"])
    subject = made.load()
    assert (subject.signature.joined, subject.signature.max_batch_size) == (False, 64)


def test_configuration_beside_a_bundle_is_followed(made: Made) -> None:
    made.folder.parent.mkdir(parents=True)
    (made.folder.parent / "config.pbtxt").write_text("max_batch_size: 3")
    subject = made.load()
    assert (subject.signature.max_batch_size, subject.longest_tokens) == (3, 3)


def test_changed_configuration_makes_another_model_of_a_bundle(made: Made) -> None:
    """So that a load takes note of it, and that it is tried; which versions serve makes no difference."""
    made.load()
    location, config = BundleLocation("m", 1, made.folder), made.folder.parent / "config.pbtxt"
    without = digest_of(location)
    config.write_text("max_batch_size: 3")
    assert built(location).digest == digest_of(location) != without
    config.write_text("version_policy { all { } }")
    assert built(location).digest == digest_of(location) == without


ALTERED: dict[str, tuple[Callable[[Made], object], str]] = {
    "golden answers": (lambda made: made.golden.update(double=2 * X + 0.01), "largest difference of double 0.0"),
    "golden numbers": (lambda made: made.golden.update(sum=X.sum(1) * np.nan), "largest difference of sum inf"),
    "golden shape": (lambda made: made.golden.update(x=X[:, 0]), "does not run on the golden rows"),
    "no golden answers": (lambda made: made.golden.pop("sum"), "the golden file has no sum"),
    "no golden inputs": (lambda made: made.golden.pop("x"), "the golden file has no x"),
    "golden number": (
        lambda made: made.golden.update(sum=np.array(1, np.float32)),
        "one number for sum, instead of rows",
    ),
    "input's name": (lambda made: setattr(made.listed.inputs[0], "name", "z"), "the manifest says z"),
    "output too few": (lambda made: made.listed.outputs.pop(), "the outputs are double, sum, the manifest says double"),
    "type": (lambda made: setattr(made.listed.inputs[0], "dtype", "int64"), "x is of float32, the manifest says int64"),
    "axes": (lambda made: made.listed.outputs[1].shape.append("n"), "sum is of shape [batch], the manifest says"),
    "no inputs": (lambda made: made.listed.ClearField("inputs"), "a graph needs inputs and outputs"),
    "twice": (lambda made: made.listed.inputs.append(made.listed.inputs[0]), "of distinct names"),
    "role": (lambda made: setattr(made.listed, "role", bundle_pb2.GRAPH_ROLE_ENCODER), "lists GRAPH_ROLE_ENCODER"),
    "kind": (lambda made: setattr(made.manifest, "graph_kind", bundle_pb2.GRAPH_KIND_PACKED), "of tensors of kind 2"),
    "limits": (lambda made: setattr(made.manifest.limits, "max_source_tokens", 3), "limits is set"),
    "special tokens": (lambda made: setattr(made.manifest.special_tokens, "pad_id", 3), "special_tokens is set"),
    "labels": (lambda made: made.manifest.labels.append("a"), "labels, multi_label or refuse_unknown_tokens is set"),
    "quantized": (
        lambda made: setattr(made.manifest.variants[0].quantization, "scheme", "int8"),
        "quantized, which this server does not know of models of tensors",
    ),
    "parity": (lambda made: setattr(made.manifest.variants[0].parity, "tolerance", 1.0), "no certificate of parity"),
    "opset": (lambda made: setattr(made, "graph", made.graph[:40]), "onnxruntime cannot load"),
}


@pytest.mark.parametrize("altered", ALTERED)
def test_altered_bundle_does_not_serve(altered: str, made: Made) -> None:
    alter, message = ALTERED[altered]
    alter(made)
    with pytest.raises(BundleError) as refused:
        made.load()
    assert message in str(refused.value)


def test_files_beside_the_graph_are_not_its_weights(made: Made) -> None:
    """A bundle's graph holds its weights: the golden file is not given to it, by whatever name it asks."""
    assert not made.load().files
