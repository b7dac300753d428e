"""A bundle is whole and true, or not there."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from google.protobuf import json_format
from headwaiter_export import ExportError, errors, export_checkpoint
from headwaiter_export.bundle import check_target, read_manifest
from headwaiter_proto.v1 import bundle_pb2

from .conftest import Exported

pytestmark = pytest.mark.torch


def _every_file(manifest: bundle_pb2.Manifest) -> list[bundle_pb2.File]:
    return [*manifest.files, *(graph.file for variant in manifest.variants for graph in variant.graphs)]


def test_manifest_names_every_file_with_its_digest(bundle: Path) -> None:
    """Digest and size of every file are right, and no other file is there."""
    files = _every_file(read_manifest(bundle))
    assert {path.name for path in bundle.iterdir()} == {"manifest.json", *(file.name for file in files)}
    for file in files:
        content = (bundle / file.name).read_bytes()
        assert (file.sha256, file.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))


def test_manifest_describes_the_model(bundle: Path, checkpoint: Path) -> None:
    """Limits, special tokens and cache geometry are the checkpoint's."""
    manifest = read_manifest(bundle)
    config = json.loads((checkpoint / "config.json").read_text())
    assert (manifest.format_version, manifest.task) == (1, bundle_pb2.TASK_GENERATE)
    assert manifest.graph_kind == bundle_pb2.GRAPH_KIND_CACHED
    assert manifest.architecture == config["architecture"]
    assert manifest.limits == bundle_pb2.Limits(max_source_tokens=32, max_new_tokens=12)
    assert manifest.special_tokens == bundle_pb2.SpecialTokens(pad_id=0, bos_id=1, eos_id=2, unk_id=3)
    assert manifest.refuse_unknown_tokens
    assert manifest.kv_cache == bundle_pb2.KvCache(num_layers=2, num_heads=4, head_dim=8)
    assert set(manifest.tool_versions) == {"torch", "onnx", "onnxscript", "onnxruntime", "headwaiter"}


def test_manifest_describes_the_graphs(bundle: Path) -> None:
    """Inputs and outputs in the manifest are those of the graphs, names, types and axes."""
    graphs = read_manifest(bundle).variants[0].graphs
    assert [graph.role for graph in graphs] == [
        bundle_pb2.GRAPH_ROLE_ENCODER,
        bundle_pb2.GRAPH_ROLE_DECODER,
    ]
    for graph in graphs:
        model = onnx.load(bundle / graph.file.name, load_external_data=False).graph
        for said, values in ((graph.inputs, model.input), (graph.outputs, model.output)):
            found = [
                bundle_pb2.TensorSpec(
                    name=value.name,
                    dtype=onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
                    shape=[dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim],
                )
                for value in values
            ]
            assert list(said) == found
    given = {tensor.name: list(tensor.shape) for tensor in graphs[1].inputs}
    assert given["key_1"] == ["rows", "4", "capacity", "8"]
    assert given["cross_value_0"] == ["rows", "4", "source", "8"]
    assert list(graphs[1].outputs[1].shape) == ["rows", "2", "4", "source"]


def test_unknown_manifest_field_is_refused(bundle: Path) -> None:
    """A reader of the schema refuses a field that it does not know, naming it."""
    fields = json.loads((bundle / "manifest.json").read_text())
    fields["colour"] = "blue"
    with pytest.raises(json_format.ParseError, match="colour"):
        json_format.ParseDict(fields, bundle_pb2.Manifest())


def test_manifest_is_plain_sorted_json(bundle: Path) -> None:
    """Keys are the schema's names in sorted order, and a pad_id of 0 is written."""
    text = (bundle / "manifest.json").read_text()
    fields = json.loads(text)
    assert list(fields) == sorted(fields)
    assert "max_source_tokens" in fields["limits"]
    assert fields["special_tokens"]["pad_id"] == 0


def test_export_is_reproducible(bundle: Path, exported: Exported) -> None:
    """A second export, in another process, gives the same bytes in every file."""
    assert {path.name for path in exported.bundle.iterdir()} == {path.name for path in bundle.iterdir()}
    for path in sorted(bundle.iterdir()):
        assert path.read_bytes() == (exported.bundle / path.name).read_bytes(), path.name


def test_golden_holds_no_pickle(bundle: Path) -> None:
    """Every member of the golden file is a plain array."""
    with zipfile.ZipFile(bundle / "golden.npz") as archive:
        assert all(name.endswith(".npy") for name in archive.namelist())
        assert all(b"'descr': '|O'" not in archive.read(name)[:128] for name in archive.namelist())


@pytest.mark.parametrize("fail", [RuntimeError("disk on fire"), KeyboardInterrupt(), errors.GraphError("no")])
def test_failure_midway_leaves_nothing(stand_in: Callable[..., Path], tmp_path: Path, fail: BaseException) -> None:
    """Whatever ends an export early, target, temporary folder and new parents are gone."""
    source = stand_in(fail=fail)
    with pytest.raises(type(fail)):
        export_checkpoint(source, tmp_path / "models" / "name" / "1")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_existing_target_is_refused(stand_in: Callable[..., Path], tmp_path: Path) -> None:
    """A target that exists, even empty, is not touched without force."""
    source = stand_in()
    target = tmp_path / "name" / "1"
    target.mkdir(parents=True)
    with pytest.raises(errors.OutputExistsError, match=r"name/1 exists; --force"):
        export_checkpoint(source, target)
    assert list(target.iterdir()) == []


def test_force_swaps_the_bundle(stand_in: Callable[..., Path], tmp_path: Path) -> None:
    """With force the new bundle stands alone at the target; a failed one leaves the old."""
    target = tmp_path / "name" / "1"
    source = stand_in(text="old")
    export_checkpoint(source, target)
    (target / "left-over").touch()
    stand_in(fail=ExportError("no"), text="broken")
    with pytest.raises(ExportError):
        export_checkpoint(source, target, force=True)
    assert (target / "model.onnx").read_text() == "old"
    stand_in(text="new")
    export_checkpoint(source, target, force=True)
    assert (target / "model.onnx").read_text() == "new"
    assert {path.name for path in target.iterdir()} == {"manifest.json", "model.onnx"}
    assert [path.name for path in target.parent.iterdir()] == ["1"]


def test_failed_swap_puts_the_old_bundle_back(
    stand_in: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the new bundle cannot be renamed into place, the old one returns to it."""
    target = tmp_path / "name" / "1"
    source = stand_in(text="old")
    export_checkpoint(source, target)
    rename = Path.rename

    def refuse(path: Path, to: Path) -> Path:
        if path.suffix == ".partial":
            raise OSError("no more names")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no more names"):
        export_checkpoint(source, target, force=True)
    assert (target / "model.onnx").read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["1"]


@pytest.mark.parametrize("version", ["v1", "0", "01", "-1", "1.0", "\u0661"])
def test_version_must_be_a_positive_integer(tmp_path: Path, version: str) -> None:
    """Another version is refused, naming it."""
    with pytest.raises(errors.OutputNameError, match="must be a positive integer, not"):
        check_target(tmp_path / "name" / version, force=False)


@pytest.mark.parametrize("name", [".hidden", "a b", "-x", "caf\u00e9"])
def test_name_must_be_plain(tmp_path: Path, name: str) -> None:
    """A name that would not do in a URL or a metric label is refused, naming it."""
    with pytest.raises(errors.OutputNameError, match="the model's name"):
        check_target(tmp_path / name / "1", force=False)
