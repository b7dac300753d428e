"""ONNX files as they come: what is found out about them at load, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.bare import digest_of_bare, is_bare, read_bare
from headwaiter_server.lifecycle.building import digest_of
from headwaiter_server.lifecycle.model_config import ModelConfig, ModelSetup, read_setup
from headwaiter_server.model.contract import TensorSpec
from headwaiter_server.model.datatypes import DATATYPES
from onnx import ModelProto, TensorProto, helper

from .tensor_graphs import (
    FLOAT,
    bare,
    built,
    centred,
    doubled,
    identity,
    model_of,
    picked,
    scaled,
    shifted,
    spread,
    subject_of,
)


@pytest.mark.parametrize("datatype", DATATYPES, ids=lambda each: each.name)
def test_bare_file_of_every_type_loads(datatype: object, tmp_path: Path) -> None:
    spec = next(each for each in DATATYPES if each is datatype)
    subject = subject_of(bare(tmp_path, identity(spec.onnx_number)))
    assert subject.signature.inputs == (TensorSpec("x", spec.name, (-1, 4)),)
    assert subject.signature.outputs == (TensorSpec("y", spec.name, (-1, 4)),)
    assert (subject.signature.max_batch_size, subject.signature.joined, subject.runs) == (64, True, True)


def test_first_axis_of_fixed_length_is_none_of_rows(tmp_path: Path) -> None:
    subject = subject_of(bare(tmp_path, identity(axes=(2, "length"))))
    assert subject.signature.inputs == (TensorSpec("x", "FP32", (2, -1)),)
    assert (subject.signature.max_batch_size, subject.signature.joined) == (0, False)
    assert len(subject.make_text(1)) == 1


def test_name_that_stands_at_another_axis_too_is_none_of_rows(tmp_path: Path) -> None:
    """`[n, n]` is a matrix of pairs, not n rows."""
    assert subject_of(bare(tmp_path, identity(axes=("n", "n")))).signature.max_batch_size == 0


def test_rows_that_come_out_in_another_number_are_none(tmp_path: Path) -> None:
    nodes = [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)]
    graph = model_of(nodes, {"x": (FLOAT, ["in", 4])}, {"y": (FLOAT, ["out", 4])})
    signature = subject_of(bare(tmp_path, graph)).signature
    assert signature.max_batch_size == 0
    assert signature.inputs == (TensorSpec("x", "FP32", (-1, 4)),)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (centred, "depends on its batch, by"),
        (shifted, "depends on a batch-mate that holds"),
        (lambda: identity(axes=("batch", 0)), "examples are all alike"),
        (
            lambda: model_of(
                [helper.make_node("Log", ["minus"], ["y"]), helper.make_node("Sub", ["x", "large"], ["minus"])][::-1],
                {"x": (FLOAT, ["batch", 4])},
                {"y": (FLOAT, ["batch", 4])},
                {"large": np.full(1, 1e3, np.float32)},
            ),
            "answered by NaN",
        ),
    ],
    ids=["mean of the batch", "largest of the batch", "nothing in a row", "no numbers"],
)
def test_rows_that_lean_on_one_another_are_never_joined(
    graph: Callable[[], ModelProto], reason: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor those of which it cannot be told. A request may have several rows all the same."""
    signature = subject_of(bare(tmp_path, graph())).signature
    assert (signature.joined, signature.max_batch_size) == (False, 64)
    assert reason in "".join(capfd.readouterr())


def test_rows_that_only_no_numbers_spoil_are_joined(tmp_path: Path) -> None:
    """Those who would be spoiled are answered alone; see test_tensor_models."""
    assert subject_of(bare(tmp_path, spread())).signature.joined


def test_graph_that_takes_one_row_at_a_time(tmp_path: Path) -> None:
    """It says that it takes any number, and lays out one on the way."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["x", "flat_shape"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["y"]),
    ]
    constants = {"flat_shape": np.array([4], np.int64)}
    graph = model_of(nodes, {"x": (FLOAT, ["batch", 4])}, {"y": (FLOAT, ["rows", 4])}, constants)
    signature = subject_of(bare(tmp_path, graph)).signature
    assert (signature.max_batch_size, signature.joined) == (1, False)


def test_graph_that_runs_on_nothing_random_serves_and_joins_nobody(tmp_path: Path) -> None:
    """It may want what nobody can guess: here, 5 columns or 7, by a sum with each."""
    nodes = [
        helper.make_node("Add", ["x", "fives"], ["first"]),
        helper.make_node("Add", ["first", "fives"], ["y"]),
    ]
    constants = {"fives": np.ones(5, np.float32)}
    graph = model_of(nodes, {"x": (FLOAT, ["batch", "n"])}, {"y": (FLOAT, ["batch", "n"])}, constants)
    # One column would do, as it is repeated; of two axes, none that is tried does.
    for tensor in (*graph.graph.input, *graph.graph.output):
        tensor.type.tensor_type.shape.dim[1].dim_param = ""
        tensor.type.tensor_type.shape.dim[1].dim_value = 6
    with pytest.raises(BundleError, match="onnxruntime cannot load"):
        built(bare(tmp_path, graph))
    wants_five = model_of(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        {"x": (FLOAT, ["batch", "n"])},
        {"y": (FLOAT, ["batch", 5, 1])},
        {"shape": np.array([0, 5, 1], np.int64)},
    )
    subject = subject_of(bare(tmp_path, wants_five, name="five"))
    assert not subject.runs
    assert (subject.signature.joined, subject.signature.max_batch_size) == (False, 64)


def test_types_that_no_request_can_hold_are_refused_by_name(tmp_path: Path) -> None:
    nodes = [helper.make_node("SequenceConstruct", ["x"], ["y"])]
    graph = model_of(nodes, {"x": (FLOAT, ["batch"])}, {})
    graph.graph.output.append(helper.make_tensor_sequence_value_info("y", FLOAT, ["batch"]))
    with pytest.raises(BundleError, match=r"y is of type seq\(tensor\(float\)\), which no request can hold"):
        built(bare(tmp_path, graph))


def test_input_with_a_default_may_be_left_out(tmp_path: Path) -> None:
    """Where it has no rows, requests to a model of rows cannot give it."""
    assert subject_of(bare(tmp_path, scaled())).signature.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    config = 'max_batch_size: 0 input [{name: "x" data_type: TYPE_FP32 dims: [-1, 4]}]'
    config += ' input [{name: "scale" data_type: TYPE_FP32 dims: [-1] optional: true}]'
    config += ' output [{name: "y" data_type: TYPE_FP32 dims: [-1, 4]}]'
    subject = subject_of(bare(tmp_path, scaled(), config, name="whole"))
    assert subject.signature.inputs[1] == TensorSpec("scale", "FP32", (-1,), optional=True)
    source = subject.make_text(1)
    assert list(source.arrays) == ["x"]


@pytest.mark.parametrize("axes", [("batch", 1 << 40), (1 << 20, 1 << 20), ("batch", 1 << 20, "a", "b", 1 << 20)])
def test_inputs_of_any_size_are_refused_before_they_are_made(axes: tuple[int | str, ...], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="bytes, which no request can hold"):
        built(bare(tmp_path, identity(axes=axes)))


def test_wrong_opset_and_damage_are_refused(tmp_path: Path) -> None:
    graph = identity()
    graph.opset_import[0].version = 999
    with pytest.raises(BundleError, match="onnxruntime cannot load"):
        built(bare(tmp_path, graph))
    location = bare(tmp_path, identity(), name="damaged")
    (location.folder / "model.onnx").write_bytes(b"\x08\x08nonsense" * 99)
    with pytest.raises(BundleError, match="onnxruntime cannot load"):
        built(location)


def with_weights_in(file: str, folder: Path) -> ModelProto:
    """`y` is `x` times a weight of 3, which lies in a file."""
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    graph = model_of(nodes, {"x": (FLOAT, ["batch", 4])}, {"y": (FLOAT, ["batch", 4])})
    weight = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=file)
    graph.graph.initializer.append(weight)
    path = folder / file
    if not path.is_absolute() or folder in path.parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.full(4, 3, np.float32).tobytes())
    return graph


def test_weights_in_a_file_beside_are_taken_from_memory(tmp_path: Path) -> None:
    location = bare(tmp_path, identity())
    graph = with_weights_in("weights.bin", location.folder)
    (location.folder / "model.onnx").write_bytes(graph.SerializeToString())
    (location.folder / "unrelated.txt").write_text("x")
    bundle = read_bare(location.folder, "fp32", ModelSetup(ModelConfig()))
    assert bundle.digest == digest_of_bare(location.folder, ModelSetup(ModelConfig()))
    assert list(bundle.files) == ["weights.bin"]
    subject = subject_of(location)
    row = subject.make_text(1)
    answer = subject.model.run([row], [("y",)])[0]["y"]
    np.testing.assert_array_equal(answer, row.arrays["x"] * np.float32(3))


@pytest.mark.parametrize("file", ["../weights.bin", "sub/weights.bin", "sub/../../weights.bin", "{folder}/weights.bin"])
def test_weights_elsewhere_do_not_exist(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by a path nor, for a graph of bytes, in the server's own folder."""
    location = bare(tmp_path, identity())
    (location.folder / "sub").mkdir()
    graph = with_weights_in(file.format(folder=location.folder), location.folder)
    (location.folder / "model.onnx").write_bytes(graph.SerializeToString())
    monkeypatch.chdir(location.folder)
    with pytest.raises(BundleError, match="onnxruntime cannot load"):
        built(location)


def test_weights_in_the_working_folder_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    graph = with_weights_in("weights.bin", tmp_path / "cwd")
    monkeypatch.chdir(tmp_path / "cwd")
    with pytest.raises(BundleError, match="onnxruntime cannot load"):
        built(bare(tmp_path / "models", graph))


def test_links_are_not_followed(tmp_path: Path) -> None:
    location = bare(tmp_path, identity())
    graph = with_weights_in("weights.bin", location.folder)
    (location.folder / "model.onnx").write_bytes(graph.SerializeToString())
    (location.folder / "weights.bin").rename(tmp_path / "secret")
    (location.folder / "weights.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match=r"weights.bin is a symbolic link"):
        built(location)
    (location.folder / "model.onnx").unlink()
    (location.folder / "model.onnx").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match=r"model.onnx is a symbolic link"):
        built(location)


def test_model_in_a_folder_of_its_own_is_refused_by_name(tmp_path: Path) -> None:
    location = bare(tmp_path, identity())
    (location.folder / "model.onnx").unlink()
    (location.folder / "model.onnx").mkdir()
    (location.folder.parent / "config.pbtxt").write_text("")
    with pytest.raises(BundleError, match="is a folder"):
        built(location)


def test_there_is_one_variant(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no variant 'int8'"):
        read_bare(bare(tmp_path, identity()).folder, "int8", ModelSetup(ModelConfig()))


def test_what_is_read_is_told_by_its_digest(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    location = bare(tmp_path, doubled())
    bundle = read_bare(location.folder, "fp32", read_setup(location.folder.parent))
    assert bundle.variant.graphs[0].file.sha256 in "".join(capfd.readouterr())
    assert bundle.digest == digest_of_bare(location.folder, ModelSetup(ModelConfig())) == digest_of(location)
    assert built(location).digest == bundle.digest
    config = location.folder.parent / "config.pbtxt"
    config.write_text("max_batch_size: 3")
    assert built(location).digest == digest_of(location) != bundle.digest
    config.write_text("version_policy { all { } }")  # which is no matter of how it is built
    assert built(location).digest == digest_of(location) == bundle.digest


def test_folder_with_a_manifest_is_a_bundle(tmp_path: Path) -> None:
    location = bare(tmp_path, identity())
    assert is_bare(location.folder)
    (location.folder / "manifest.json").write_text(json.dumps({}))
    assert not is_bare(location.folder)
    for left in ("tokenizer.json", "golden.npz"):
        broken = bare(tmp_path, identity(), name=f"without-manifest-{left}")
        (broken.folder / left).write_text("")
        assert not is_bare(broken.folder)
    (tmp_path / "empty" / "1").mkdir(parents=True)
    assert not is_bare(tmp_path / "empty" / "1")


def test_guilty_index_is_found_at_load_without_harm(tmp_path: Path) -> None:
    """Random whole numbers are 0 or 1, which tables mostly have rows for."""
    assert subject_of(bare(tmp_path, picked())).signature.joined
    onnx.checker.check_model(picked())
