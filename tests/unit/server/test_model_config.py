"""Every field of a `config.pbtxt` is followed, told of, or refused by name."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headwaiter_proto.inference import model_config_pb2
from headwaiter_server.config.version_policy import VersionPolicy
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle import model_config
from headwaiter_server.lifecycle.model_config import ModelSetup, read_setup
from headwaiter_server.model.contract import TensorSpec
from onnx import ModelProto, TensorProto, helper

from .tensor_graphs import bare, centred, doubled, identity, model_of, scaled, subject_of

IN = 'input [{name: "x" data_type: TYPE_FP32 dims: [4]}] '
OUT = 'output [{name: "y" data_type: TYPE_FP32 dims: [4]}] '


def setup_of(config: str, tmp_path: Path) -> ModelSetup:
    (tmp_path / "m").mkdir(exist_ok=True)
    (tmp_path / "m" / "config.pbtxt").write_text(config)
    return read_setup(tmp_path / "m")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("", {}),
        ('name: "m" platform: "onnxruntime_onnx" backend: "onnxruntime"', {}),
        ("max_batch_size: 8", {"max_batch_size": 8}),
        ('default_model_filename: "net.onnx"', {"model_file": "net.onnx"}),
        ("dynamic_batching {}", {"delay_seconds": 0.0}),
        ("dynamic_batching {max_queue_delay_microseconds: 2000}", {"delay_seconds": 0.002}),
        ("dynamic_batching {preferred_batch_size: [4, 8]}", {"preferred_rows": 8, "delay_seconds": 0.0}),
        ("instance_group [{kind: KIND_CPU}]", {"most_runs": 1}),
        ("instance_group [{count: 2 kind: KIND_CPU}, {count: 1}]", {"most_runs": 3}),
        ('parameters {key: "intra_op_thread_count" value {string_value: "3"}}', {"threads": 3}),
        ('parameters {key: "intra_op_thread_count" value {string_value: "0"}}', {}),
        ("version_policy {latest {num_versions: 2}}", {"version_policy": VersionPolicy(latest=2)}),
        ("version_policy {all {}}", {"version_policy": VersionPolicy()}),
        ("version_policy {specific {versions: [1, 3]}}", {"version_policy": VersionPolicy(specific=(1, 3))}),
        ("response_cache {enable: true}", {"cached": True}),
        ("dynamic_batching {default_queue_policy {allow_timeout_override: true}}", {"delay_seconds": 0.0}),
        ("response_cache {enable: false}", {"cached": False}),
        ("model_transaction_policy {decoupled: false}", {}),
        ('instance_group [{name: "a"}]', {"most_runs": 1, "ignored": ("instance_group.name",)}),
        (
            'dynamic_batching {priority_levels: 2 default_priority_level: 1} metric_tags {key: "a" value: "b"}',
            {
                "delay_seconds": 0.0,
                "ignored": (
                    "metric_tags",
                    "dynamic_batching.priority_levels",
                    "dynamic_batching.default_priority_level",
                ),
            },
        ),
        ('output [{label_filename: "a"}, {label_filename: "b"}]', {"ignored": ("output.label_filename",)}),
    ],
)
def test_field_is_followed_or_told_of(config: str, expected: dict[str, Any], tmp_path: Path) -> None:
    setup = setup_of(config, tmp_path)
    found = {name: getattr(setup, name) for name in ModelSetup.__dataclass_fields__ if name != "config"}
    default = {name: field.default for name, field in ModelSetup.__dataclass_fields__.items() if name != "config"}
    assert found == default | expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("nonsense", "config.pbtxt: .*nonsense"),
        ("optimization {}", "optimization: this server does not do that"),
        ("sequence_batching {}", "sequence_batching: this server does not do that"),
        ("ensemble_scheduling {}", "ensemble_scheduling: this server does not do that"),
        ('name: "other"', "name: is 'other', the folder is 'm'"),
        ('platform: "tensorrt_plan"', "platform: is 'tensorrt_plan', this server runs onnxruntime_onnx"),
        ('backend: "python"', "backend: is 'python', this server runs onnxruntime"),
        ('runtime: "onnxruntime"', "runtime: this server does not do that"),
        ("max_batch_size: -1", "max_batch_size: is -1, expected 0 to 65536"),
        ('default_model_filename: "../model.onnx"', "default_model_filename: .* is not a plain file name"),
        ("version_policy {specific {}}", "version_policy: versions are numbers from 1 on"),
        ("input [{allow_ragged_batch: true}]", "input.allow_ragged_batch: this server does not do that"),
        ("input [{is_shape_tensor: true}]", "input.is_shape_tensor: this server does not do that"),
        ("output [{is_shape_tensor: true}]", "output.is_shape_tensor: this server does not do that"),
        ("instance_group [{}, {kind: KIND_GPU}]", "instance_group.kind: this server runs models on the processor"),
        ("instance_group [{gpus: [0]}]", "instance_group.gpus: this server does not do that"),
        ("instance_group [{count: -2}]", "instance_group.count: is -2, expected 1 to"),
        ("instance_group [{passive: true}]", "instance_group.passive: this server does not do that"),
        ('instance_group [{profile: "1"}]', "instance_group.profile: this server does not do that"),
        ('instance_group [{host_policy: "a"}]', "instance_group.host_policy: this server does not do that"),
        ("dynamic_batching {preferred_batch_size: [4, 0]}", "preferred_batch_size: is 0, expected 1 to"),
        ("dynamic_batching {max_queue_delay_microseconds: 99000000}", "max_queue_delay_microseconds: is 99000000"),
        ("dynamic_batching {preserve_ordering: true}", "dynamic_batching.preserve_ordering: this server does not"),
        (
            "dynamic_batching {default_queue_policy {max_queue_size: 3}}",
            "dynamic_batching.default_queue_policy.max_queue_size: this server does not do that",
        ),
        (
            "dynamic_batching {default_queue_policy {default_timeout_microseconds: 3}}",
            "dynamic_batching.default_queue_policy.default_timeout_microseconds: this server does not do that",
        ),
        (
            "dynamic_batching {priority_queue_policy {key: 1 value {}}}",
            "dynamic_batching.priority_queue_policy: this server does not do that",
        ),
        ('parameters {key: "inter_op" value {string_value: "3"}}', "parameters: this server does not know 'inter_op'"),
        ('parameters {key: "intra_op_thread_count" value {string_value: "x"}}', "intra_op_thread_count is 'x'"),
        ("model_transaction_policy {decoupled: true}", "model_transaction_policy.decoupled: this server does not"),
    ],
)
def test_field_is_refused_by_name(config: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=message):
        setup_of(config, tmp_path)


def test_table_names_fields_that_there_are() -> None:
    def paths(prefix: str, descriptor: Any) -> Iterator[str]:  # noqa: ANN401 - of one of two kinds of parsers
        for field in descriptor.fields:
            yield prefix + field.name
            if field.message_type is not None:
                yield from paths(f"{prefix}{field.name}.", field.message_type)

    assert set(model_config._RULES) <= set(paths("", model_config_pb2.ModelConfig.DESCRIPTOR))


def test_documented_table_is_the_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "tensor-models.md").read_text()
    assert [name for name in model_config._RULES if f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    ("graph", "config", "message"),
    [
        (identity, "max_batch_size: 4 " + IN.replace('"x"', '"z"') + OUT, "the graph has no input 'z'"),
        (identity, "max_batch_size: 4 " + IN + IN + OUT, "stands there twice"),
        (identity, "max_batch_size: 4 " + IN + OUT.replace("FP32", "INT8"), "output y: data_type is INT8, the graph"),
        (identity, "max_batch_size: 4 " + IN.replace("[4]", "[5]") + OUT, r"input x: dims are \[5\], the graph says"),
        (identity, "max_batch_size: 4 " + IN.replace("[4]", "[-1]") + OUT, r"input x: dims are \[-1\]"),
        (identity, "max_batch_size: 4 " + IN.replace("[4]", "[4, 1]") + OUT, "input x: dims are"),
        (identity, "max_batch_size: 4 " + IN.replace("}", "optional: true}") + OUT, "input x: is optional, but"),
        (identity, IN.replace("[4]", "[0]"), "sizes are numbers from 1 on"),
        (lambda: identity(axes=(2, 4)), "max_batch_size: 4", "max_batch_size: is 4, but the first axis"),
        (
            identity,
            "max_batch_size: 4 " + IN.replace("[4]", "[3] reshape {shape: [4]}"),
            r"reshape from \[3\] to \[4\] is none of as many elements",
        ),
        (scaled, 'input [{name: "scale" data_type: TYPE_FP32 dims: [-1] optional: true}]', "x is missing"),
    ],
)
def test_tensors_are_held_to_the_graph(graph: Any, config: str, message: str, tmp_path: Path) -> None:  # noqa: ANN401
    with pytest.raises(BundleError, match=message):
        subject_of(bare(tmp_path, graph(), config))


@pytest.mark.parametrize(
    ("config", "limit", "shape"),
    [
        ("max_batch_size: 4 " + IN + OUT, 4, (-1, 4)),
        ("max_batch_size: 4", 4, (-1, 4)),
        ("", 64, (-1, 4)),
        (IN + OUT, 64, (-1, 4)),
        (IN.replace("[4]", "[-1, 4]") + OUT.replace("[4]", "[-1, 4]"), 0, (-1, 4)),
        (IN.replace("[4]", "[7, 4]") + OUT.replace("[4]", "[7, 4]"), 0, (7, 4)),
    ],
)
def test_batch_is_as_the_dimensions_say(config: str, limit: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    """Dimensions that leave out the first axis leave out the batch's; without any the graph decides."""
    signature = subject_of(bare(tmp_path, identity(), config)).signature
    assert signature.max_batch_size == limit
    assert signature.inputs[0].shape == shape


def test_tensors_may_be_narrowed_and_left_out(tmp_path: Path) -> None:
    config = 'max_batch_size: 2 input [{name: "x" data_type: TYPE_FP32 dims: [3]}]'
    config += ' output [{name: "sum" data_type: TYPE_FP32 dims: [] }]'
    signature = subject_of(bare(tmp_path, doubled(), config)).signature
    assert signature.inputs == (TensorSpec("x", "FP32", (-1, 3)),)
    assert signature.outputs == (TensorSpec("sum", "FP32", (-1,)),)


def test_reshape_of_inputs_and_outputs(tmp_path: Path) -> None:
    """Requests and answers have the shape of `dims`, the graph that of `reshape`."""
    config = 'max_batch_size: 4 input [{name: "x" data_type: TYPE_FP32 dims: [3, 2] reshape {shape: [6]}}]'
    config += ' output [{name: "sum" data_type: TYPE_FP32 dims: [1] reshape {shape: []}}]'
    config += ' output [{name: "double" data_type: TYPE_FP32 dims: [2, 3] reshape {shape: [6]}}]'
    subject = subject_of(bare(tmp_path, doubled(), config))
    assert [each.shape for each in subject.signature.inputs] == [(-1, 3, 2)]
    assert [each.shape for each in subject.signature.outputs] == [(-1, 1), (-1, 2, 3)]
    rows = subject.make_text(2)
    one, two = subject.model.run([rows, subject.make_text(1)], [("sum", "double")] * 2)
    x = rows.arrays["x"]
    assert (one["sum"].shape, two["double"].shape) == ((2, 1), (1, 2, 3))
    np.testing.assert_allclose(one["sum"][:, 0], x.reshape(2, 6).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(one["double"].ravel(), 2 * x.ravel())


def test_limit_that_the_graph_cannot_keep_is_refused(tmp_path: Path) -> None:
    graph: ModelProto = identity(TensorProto.FLOAT, ("n", "n"))
    with pytest.raises(BundleError, match="max_batch_size: is 4, but the first axis"):
        subject_of(bare(tmp_path, graph, "max_batch_size: 4"))
    # Rows that lean on one another are no reason: a request may have as many as it says.
    leaning = subject_of(bare(tmp_path, centred(), "max_batch_size: 4", name="leaning")).signature
    assert (leaning.max_batch_size, leaning.joined) == (4, False)


def test_what_the_runtime_says_to_a_batch_is_told_apart(tmp_path: Path) -> None:
    """Callers who load the model read our own words alone, the log both."""
    one_row = model_of(
        [helper.make_node("Reshape", ["x", "shape"], ["same"]), helper.make_node("Add", ["x", "same"], ["y"])],
        {"x": (TensorProto.FLOAT, ["batch", 4])},
        {"y": (TensorProto.FLOAT, ["batch", 4])},
        {"shape": np.array([1, 4], np.int64)},
    )
    with pytest.raises(BundleError) as refused:
        subject_of(bare(tmp_path, one_row, "max_batch_size: 4"))
    assert refused.value.message.endswith(
        ": max_batch_size: is 4, but the graph does not run on 8 rows, but one by one"
    )
    assert "Reshape" in refused.value.said


def test_configuration_of_any_size_is_not_parsed(tmp_path: Path) -> None:
    """A parser that holds the interpreter for a minute would hold up those who serve."""
    with pytest.raises(BundleError, match=r"config\.pbtxt has 2097152 bytes, the limit is 1048576"):
        setup_of(" " * (2 << 20), tmp_path)


def test_configuration_that_cannot_be_looked_at_is_a_problem_of_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of nothing else: it is refused like one that cannot be read."""

    def refuse(_path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(BundleError, match=r"config\.pbtxt cannot be read: Permission denied"):
        read_setup(tmp_path / "m")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimization { graph { level: 1 } }", "optimization: this server does not do that"),
        ("model_warmup { name: 'w' }", "model_warmup: this server does not do that"),
        ("max_batchsize: 4", "max_batchsize: there is no such field"),
    ],
)
def test_fields_without_a_place_here_are_named_like_others(tmp_path: Path, text: str, said: str) -> None:
    """What the protocol has and our messages leave out is told from a slip of the pen."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text(text)
    with pytest.raises(BundleError, match=said):
        read_setup(tmp_path / "m")
