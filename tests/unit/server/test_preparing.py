"""Graphs that a process of their own has made ready: the same answers, nothing left behind, never a reason to fail."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle import preparing
from headwaiter_server.lifecycle.preparing import Graphs
from headwaiter_server.model.contract import Array
from headwaiter_server.model.onnx import OnnxGraph
from onnx import helper
from structlog.testing import capture_logs

from .tensor_graphs import FLOAT, model_of

# Large enough that it is mapped, and multiplied by what was laid out for it.
WEIGHTS = np.random.default_rng(0).standard_normal((96, 128)).astype(np.float32)


def layer() -> bytes:
    """`y` is the positive part of `x` times the weights."""
    return model_of(
        [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Relu", ["xw"], ["y"])],
        {"x": (FLOAT, ("rows", 96))},
        {"y": (FLOAT, ("rows", 128))},
        {"w": WEIGHTS},
    ).SerializeToString()


def answer(graph: OnnxGraph) -> Array:
    return graph.run(["y"], {"x": np.ones((3, 96), np.float32)})[0]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made; nothing may be left in it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def children() -> Iterator[mock.Mock]:
    """Counts the processes that are started."""
    with mock.patch.object(preparing, "_run_child", wraps=preparing._run_child) as run_child:
        yield run_child


def test_prepared_graph_answers_to_the_last_bit(temporary: Path, children: mock.Mock) -> None:
    """Both sessions are built of what one process has made; they go on when its files are gone."""
    graph, graphs = layer(), Graphs(1, 60.0)
    expected = answer(graphs.open("g", graph))
    children.assert_not_called()
    with graphs.beside_others():
        shared, alone = graphs.open("g", graph), graphs.open_alone("g", graph, 2)
        (folder,) = temporary.iterdir()
        assert sum(each.stat().st_size for each in folder.iterdir()) > WEIGHTS.nbytes
    children.assert_called_once()
    assert (shared.inputs, shared.outputs) == (["x"], ["y"])
    for each in (shared, alone):
        np.testing.assert_array_equal(answer(each), expected)


@pytest.mark.usefixtures("temporary")
def test_another_graph_is_prepared_anew(children: mock.Mock) -> None:
    graphs, first = Graphs(1, 60.0), layer()
    second = model_of(
        [helper.make_node("Neg", ["x"], ["y"])], {"x": (FLOAT, (3, 96))}, {"y": (FLOAT, (3, 96))}
    ).SerializeToString()
    with graphs.beside_others():
        graphs.open("first", first)
        np.testing.assert_array_equal(answer(graphs.open("second", second)), np.full((3, 96), -1.0))
    assert children.call_count == 2


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize("limit_seconds", [0.0, 60.0])
def test_without_a_process_the_graph_is_opened_all_the_same(
    limit_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes too long, or there is none."""
    if limit_seconds:
        monkeypatch.setattr(preparing, "_COMMAND", ("/nonexistent/python",))
    graphs = Graphs(1, limit_seconds)
    with graphs.beside_others(), capture_logs() as logs:
        opened = graphs.open("g", layer())
    np.testing.assert_allclose(answer(opened)[0], np.maximum(WEIGHTS.sum(0), 0), rtol=1e-5)
    assert [each["event"] for each in logs] == ["graph_not_prepared"]


@pytest.mark.usefixtures("temporary")
def test_what_is_no_graph_is_refused_as_ever() -> None:
    graphs = Graphs(1, 60.0)
    with graphs.beside_others(), pytest.raises(BundleError, match="onnxruntime cannot load g"):
        graphs.open("g", b"no graph")


@pytest.mark.usefixtures("temporary")
def test_graph_that_may_name_files_is_not_given_away(children: mock.Mock) -> None:
    """Beside the path that it would have there, it would find files that nobody has checked."""
    graph = model_of(
        [helper.make_node("Identity", ["x"], ["location"])], {"x": (FLOAT, (1,))}, {"location": (FLOAT, (1,))}
    )
    graphs = Graphs(1, 60.0)
    with graphs.beside_others():
        graphs.open("g", graph.SerializeToString())
    children.assert_not_called()
