"""Modules and ONNX files of any meaning come into bundles of rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from headwaiter_export import Options, errors, export_checkpoint, export_module
from headwaiter_export.cli import command
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray
from torch import Tensor, nn

pytestmark = pytest.mark.torch


class _Curve(nn.Module):
    """Two inputs, two outputs, an axis of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Conv1d(3, 5, 3, padding=1)

    def forward(self, signal: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.filter(signal)
        return hidden.transpose(1, 2), hidden.mean(2) * gain


class _Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class _Difference(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x - y


class _Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(0)


class _Named(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": x + 1}


class _Drifting(nn.Module):
    """Answers something else to PyTorch than what was traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (0 if torch.compiler.is_exporting() else 1)


def _golden(bundle: Path) -> dict[str, NDArray[Any]]:
    """A bundle's golden arrays."""
    with np.load(bundle / "golden.npz", allow_pickle=False) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bundle_pb2.Manifest]:
    """A module's bundle and manifest."""
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("models") / "curve" / "1"
    manifest = export_module(
        _Curve(),
        (torch.randn(2, 3, 9), torch.randn(2, 1)),
        out,
        input_names=["signal", "gain"],
        output_names=["curve", "mean"],  # an operator's name, which must not matter
        axes={"signal": {2: "time"}},
    )
    return out, manifest


def test_module_is_exported(curve: tuple[Path, bundle_pb2.Manifest]) -> None:
    """Names, axes and certificate are there; the golden rows are PyTorch's; nothing speaks of texts."""
    out, manifest = curve
    assert (manifest.task, manifest.graph_kind) == (bundle_pb2.TASK_TENSOR, bundle_pb2.GRAPH_KIND_PADDED)
    (graph,) = manifest.variants[0].graphs
    assert graph.role == bundle_pb2.GRAPH_ROLE_MODEL
    assert {tensor.name: list(tensor.shape) for tensor in (*graph.inputs, *graph.outputs)} == {
        "signal": ["batch", "3", "time"],
        "gain": ["batch", "1"],
        "curve": ["batch", "time", "5"],
        "mean": ["batch", "5"],
    }
    assert sorted(path.name for path in out.iterdir()) == ["golden.npz", "manifest.json", "model.onnx"]
    assert [file.name for file in manifest.files] == ["golden.npz"]
    assert {point.batch for point in manifest.variants[0].parity.points} == {1, 2, 3, 7, 16}
    assert manifest.remarks[0].startswith("a row is answered the same alone and in a batch")
    golden = _golden(out)
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    answers = session.run(["curve", "mean"], {name: golden[name] for name in ("signal", "gain")})
    for name, answer in zip(("curve", "mean"), answers, strict=True):
        np.testing.assert_allclose(answer, golden[name], atol=1e-5)


def test_rows_that_depend_on_one_another_are_remarked_on(tmp_path: Path) -> None:
    """A module that looks at the whole batch is exported, and the manifest warns."""
    example = (torch.randn(2, 3),)
    manifest = export_module(_Centred(), example, tmp_path / "m" / "1", input_names=["x"], output_names=["y"])
    assert manifest.remarks[0].startswith("a row's answer depends on its batch")


def test_rows_that_are_alike_prove_nothing(tmp_path: Path) -> None:
    """From an example of one row nobody can tell whether rows depend on one another, and the manifest says so."""
    example = (torch.randn(1, 3),)
    manifest = export_module(_Centred(), example, tmp_path / "m" / "1", input_names=["x"], output_names=["y"])
    assert manifest.remarks[0].startswith("whether a row's answer depends on its batch is not known")


def test_inputs_may_have_any_name(tmp_path: Path) -> None:
    """Names that mean something to numpy's own functions are names like all others."""
    names = ["file", "allow_pickle"]
    example = (torch.randn(2, 3), torch.randn(2, 3))
    manifest = export_module(_Difference(), example, tmp_path / "m" / "1", input_names=names, output_names=["args"])
    assert [tensor.name for tensor in manifest.variants[0].graphs[0].inputs] == names
    golden = _golden(tmp_path / "m" / "1")
    assert sorted(golden) == ["allow_pickle", "args", "file"]
    np.testing.assert_allclose(golden["args"], golden["file"] - golden["allow_pickle"], atol=1e-6)


@pytest.mark.parametrize(
    ("module", "kind", "message"),
    [
        (_Sum(), errors.SpecialisedShapeError, "output y is .*; its first axis must be the batch"),
        (_Drifting(), errors.ToleranceExceededError, r"differ by 0\.\d+.* at x \[1, 3\]"),
    ],
)
def test_module_that_cannot_be_served_is_refused(
    tmp_path: Path, module: nn.Module, kind: type[Exception], message: str
) -> None:
    """No rows in what comes out, or other numbers: nothing is written."""
    with pytest.raises(kind, match=message):
        export_module(module, (torch.rand(2, 3),), tmp_path / "m" / "1", input_names=["x"], output_names=["y"])
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (["x", "z"], ["y"], "2 names of inputs stand beside 1 tensors of rows"),
        (["x"], ["y", "z"], "2 names of outputs stand beside 1 outputs of the module"),
    ],
)
def test_names_must_fit(tmp_path: Path, inputs: list[str], outputs: list[str], message: str) -> None:
    """A name for each input and output, no more and no less."""
    example = (torch.ones(2, 3, requires_grad=True),)
    with pytest.raises(errors.GraphRejectedError, match=message):
        export_module(_Centred(), example, tmp_path / "m" / "1", input_names=inputs, output_names=outputs)


@pytest.mark.parametrize(
    ("example", "axes", "message"),
    [
        ((torch.rand(2, 3), torch.rand(3, 3)), {}, r"have \[2, 3\] rows"),
        ((torch.rand(0, 3), torch.rand(0, 3)), {}, r"have \[0\] rows"),
        ((torch.rand(2, 3), torch.rand(2, 3)), {"y": {1: "width"}}, "axes are named of y, which is no input"),
        ((torch.rand(2, 3), torch.rand(2, 3).bfloat16()), {}, "input z is of type torch.bfloat16"),
    ],
)
def test_example_must_fit(
    tmp_path: Path, example: tuple[Tensor, ...], axes: dict[str, dict[int, str]], message: str
) -> None:
    """As many rows of each input, of numbers that numpy has, and names of axes of inputs that exist."""
    out = tmp_path / "m" / "1"
    with pytest.raises(errors.GraphRejectedError, match=message):
        export_module(nn.Bilinear(3, 3, 2), example, out, input_names=["x", "z"], output_names=["o"], axes=axes)


def test_answer_must_be_of_tensors(tmp_path: Path) -> None:
    """A module that answers a dictionary is refused in words."""
    with pytest.raises(errors.GraphRejectedError, match="something other than a tensor"):
        export_module(_Named(), (torch.rand(2, 3),), tmp_path / "m" / "1", input_names=["x"], output_names=["y"])


@pytest.fixture
def file(curve: tuple[Path, bundle_pb2.Manifest], tmp_path: Path) -> Path:
    """An ONNX file that a test may spoil."""
    path = tmp_path / "curve.onnx"
    path.write_bytes((curve[0] / "model.onnx").read_bytes())
    return path


def test_onnx_file_is_taken_in(file: Path, tmp_path: Path) -> None:
    """The command makes a bundle of an ONNX file and says that there was nothing to compare it with."""
    out = tmp_path / "m" / "1"
    result = CliRunner().invoke(command, [str(file), "--out", str(out), "--task", "tensor"])
    assert result.exit_code == 0, result.output
    assert "curve.onnx came as it is: there was no PyTorch model to compare it with" in result.stdout
    assert "a row is answered the same alone and in a batch" in result.stdout
    golden = _golden(out)
    assert golden["curve"].shape == (3, golden["signal"].shape[2], 5)


def test_weights_beside_the_file_are_taken_in(file: Path, tmp_path: Path) -> None:
    """External data ends up inside the bundle's own file; without it the file is refused."""
    model = onnx.load(file)
    onnx.save(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    out = tmp_path / "m" / "1"
    export_checkpoint(file, out)
    assert sorted(path.name for path in out.iterdir()) == ["golden.npz", "manifest.json", "model.onnx"]
    onnxruntime.InferenceSession((out / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(errors.CorruptCheckpointError, match=r"curve\.onnx: not a valid ONNX model"):
        export_checkpoint(file, tmp_path / "n" / "1")


def test_constants_beside_the_file_are_taken_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """External data of a node counts too, and comes from beside the file, never from where the command runs."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 22]> g (float[n, 2] x) => (float[n, 2] y)'
        " { c = Constant <value = float[2] {0.0, 0.0}> ()\n y = Add(x, c) }"
    )
    tensor = model.graph.node[0].attribute[0].t
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([7, 8], np.float32), "c"))
    onnx.external_data_helper.set_external_data(tensor, "c.bin")
    for folder, content in (("models", tensor.raw_data), ("elsewhere", bytes(8))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "c.bin").write_bytes(content)
    tensor.ClearField("raw_data")
    path = tmp_path / "models" / "sum.onnx"
    path.write_bytes(model.SerializeToString())
    monkeypatch.chdir(tmp_path / "elsewhere")
    export_checkpoint(path, tmp_path / "m" / "1")
    golden = _golden(tmp_path / "m" / "1")
    np.testing.assert_allclose(golden["y"] - golden["x"], [[7, 8]] * 3, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("(float[n, 3] x) => (string[n, 3] y) { y = Cast <to = 8> (x) }", "output y is of type object, not of numbers"),
        ("(float[n, 3] x) => (float[n] y) { y = ReduceSum <keepdims = 0> (x) }", r"is said to be \['n'\]"),
    ],
)
def test_output_is_what_the_file_says_and_of_numbers(tmp_path: Path, body: str, message: str) -> None:
    """Texts, which no bundle holds, and outputs of other axes than the file's are refused."""
    path = tmp_path / "odd.onnx"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 22]> g {body}')
    path.write_bytes(model.SerializeToString())
    with pytest.raises(errors.GraphRejectedError, match=message):
        export_checkpoint(path, tmp_path / "m" / "1")


def test_axis_has_one_length_wherever_it_stands(tmp_path: Path) -> None:
    """Two inputs that share an axis, at different places, are tried with one length of it, and are no rows."""
    text = "(float[n, k] x, float[k, 2] z) => (float[n, 2] y) { y = MatMul(x, z) }"
    path = tmp_path / "sum.onnx"
    path.write_bytes(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 22]> g {text}').SerializeToString())
    manifest = export_checkpoint(path, tmp_path / "m" / "1")
    assert "cannot be put into one batch" in manifest.remarks[1]
    golden = _golden(tmp_path / "m" / "1")
    assert golden["x"].shape[1] == golden["z"].shape[0]


@pytest.mark.parametrize("body", ["{ y = Log(x)\n z = Neg(x) }", "{ c = Reciprocal(x)\n y = Max(c, c)\n z = Neg(x) }"])
def test_answers_that_are_no_numbers_are_remarked_on(tmp_path: Path, body: str) -> None:
    """NaN or infinity in an answer is said, by the output's name, instead of a difference of nan."""
    text = f'<ir_version: 10, opset_import: ["": 22]> g (float[n, 3] x) => (float[n, 3] y, float[n, 3] z) {body}'
    if "Reciprocal" in body:
        text = text.replace("float[n, 3] x", "int32[n, 3] i").replace("{", "{ x = Cast <to = 1> (i)\n", 1)
    path = tmp_path / "log.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    manifest = export_checkpoint(path, tmp_path / "m" / "1")
    assert manifest.remarks[1].endswith("not known: the answers to the example hold NaN or infinity, in y")


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _unsorted(path: Path) -> None:
    model = onnx.load(path)
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path.write_bytes(model.SerializeToString())


def _unknown_operator(path: Path) -> None:
    model = onnx.load(path)
    model.graph.node[0].domain = "nowhere"
    model.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("spoil", [_truncated, _unsorted, _unknown_operator])
def test_broken_onnx_file_is_refused(file: Path, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """Bytes, graphs and operators that onnx or onnxruntime refuses are refused in one line."""
    spoil(file)
    with pytest.raises((errors.CorruptCheckpointError, errors.GraphRejectedError)) as caught:
        export_checkpoint(file, tmp_path / "m" / "1")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()


def test_onnx_file_is_of_tensors_only(file: Path, tmp_path: Path) -> None:
    """Nobody knows what an ONNX file's outputs mean: no other task is taken."""
    with pytest.raises(errors.UnknownArchitectureError, match="no task 'embed'"):
        export_checkpoint(file, tmp_path / "m" / "1", Options(task="embed"))


@pytest.mark.parametrize("options", [Options(graph="padded"), Options(max_tokens=8), Options(words=Path("words"))])
def test_choices_without_effect_are_refused(file: Path, tmp_path: Path, options: Options) -> None:
    """What an ONNX file leaves no choice of is not passed over in silence."""
    with pytest.raises(errors.UnknownArchitectureError, match="taken as they are: there is no choice of"):
        export_checkpoint(file, tmp_path / "m" / "1", options)


def test_fixed_batch_is_remarked_on(tmp_path: Path) -> None:
    """A graph for one row at a time is taken, with a remark."""
    text = '<ir_version: 10, opset_import: ["": 22]> g (float[1, 3] x) => (float[1, 3] y) { y = Neg(x) }'
    path = tmp_path / "one.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    manifest = export_checkpoint(path, tmp_path / "m" / "1")
    assert "cannot be put into one batch" in manifest.remarks[1]
    assert list(manifest.variants[0].graphs[0].inputs[0].shape) == ["1", "3"]
