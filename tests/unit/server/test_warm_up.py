"""First runs of a model: what would fail or hang there is found before a caller meets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.building import BuiltModel, build_model
from headwaiter_server.lifecycle.calibration import Calibrator
from headwaiter_server.lifecycle.plan import CalibrationPlan
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.lifecycle.subject import Subject
from headwaiter_server.lifecycle.trying import NO_MEMORY, REFUSED, SAID, TRIED, try_model
from headwaiter_server.lifecycle.warm_up import warm_up
from headwaiter_server.model.cached import CachedRows
from headwaiter_server.model.contract import Array, Cancellation, FloatArray, Graph
from headwaiter_server.model.onnx import OnnxGraph
from headwaiter_server.scheduling.cost import PackedCost, Sample

from .test_load_encoder import Made


class WatchedGraph:
    """Notes how many tokens each run has, and may fail some."""

    def __init__(self, graph: Graph, fail: Callable[[int], Exception | None]) -> None:
        self._graph = graph
        self._fail = fail
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.runs: list[tuple[int, int, tuple[str, ...]]] = []

    def run(
        self, outputs: list[str], feeds: Mapping[str, Array], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        tokens = len(feeds["input_ids"])
        self.runs.append((len(feeds["text_starts"]), tokens, tuple(outputs)))
        if (error := self._fail(tokens)) is not None:
            raise error
        return self._graph.run(outputs, feeds, cancellation)


def built(folder: Path, fail: Callable[[int], Exception | None] = lambda _: None) -> tuple[BuiltModel, WatchedGraph]:
    made = Made(folder)
    made.manifest.limits.max_source_tokens = 40
    made.write()
    opened: list[WatchedGraph] = []

    def open_graph(name: str, graph: bytes, **_: Any) -> Graph:  # noqa: ANN401 - what other models want
        opened.append(WatchedGraph(OnnxGraph.load(name, graph, 1), fail))
        return opened[0]  # type: ignore[return-value]

    model = build_model(BundleLocation("small", 1, made.folder), "fp32", open_graph)
    opened[0].runs.clear()
    return model, opened[0]


def test_smallest_ordinary_and_longest_texts_are_run_for_both_outputs(tmp_path: Path) -> None:
    """One token, ordinary texts together, and the longest text; raw answers and finished ones."""
    model, graph = built(tmp_path)
    warm_up(model)
    for outputs in (("embedding",), ("unit_embedding",)):
        assert {(1, 1, outputs), (8, 128, outputs), (1, 40, outputs)} <= set(graph.runs)


def test_run_that_fails_refuses_the_model(tmp_path: Path) -> None:
    """A model that answers its golden texts and fails the longest text does not serve."""
    model, _ = built(tmp_path, lambda tokens: RuntimeError("too long for me") if tokens == 40 else None)
    with pytest.raises(BundleError, match="it does not run: too long for me"):
        warm_up(model)


def test_sizes_of_the_plan_are_run(tmp_path: Path) -> None:
    """What was calibrated is run as it was: as many tokens, in texts as long."""
    model, graph = built(tmp_path)
    assert isinstance(model.body, Subject)
    samples = (Sample(1, 8, 8, 0.1), Sample(4, 16, 56, 0.1))
    plan = CalibrationPlan(PackedCost(1e-3, 1e-6, 0.0), 64, samples=samples)
    Calibrator(workers=1).warm(model.body.model, plan, model.body.make_text, model.body.asked)
    assert [run[:2] for run in graph.runs] == [(1, 8), (4, 56)]


def test_trial_reports_what_came_of_it(tmp_path: Path) -> None:
    """A trial's last step names the digest, or why there is none; the steps before say what was being done."""
    made = Made(tmp_path)
    made.write()
    request = {"name": "small", "version": 1, "folder": str(made.folder), "variant": "fp32", "threads": 1}
    steps: list[Mapping[str, str]] = []
    try_model(request, steps.append)
    assert TRIED in steps[-1]
    assert len(steps) > 3
    try_model({**request, "variant": "int4"}, steps.append)
    assert "no variant 'int4'" in steps[-1][REFUSED]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("std::bad_alloc"), RuntimeError("Failed to allocate memory for 99 bytes")]
)
def test_want_of_memory_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """However a library says that there is no memory, it is not the model's fault alone."""

    def no_memory(*_: object) -> None:
        raise BundleError("the graphs do not run") from error

    monkeypatch.setattr("headwaiter_server.lifecycle.trying.build_model", no_memory)
    steps: list[Mapping[str, str]] = []
    request = {"name": "small", "version": 1, "folder": str(tmp_path), "variant": "fp32", "threads": 1}
    try_model(request, steps.append)
    assert NO_MEMORY in steps[-1]


def test_panic_of_a_library_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries in other languages raise what is no Exception."""

    class Panic(BaseException):
        pass

    def panic(*_: object) -> None:
        raise Panic("index out of bounds")

    monkeypatch.setattr("headwaiter_server.lifecycle.trying.build_model", panic)
    steps: list[Mapping[str, str]] = []
    request = {"name": "small", "version": 1, "folder": str(tmp_path), "variant": "fp32", "threads": 1}
    try_model(request, steps.append)
    assert steps[-1] == {REFUSED: f"{tmp_path}: it cannot be loaded", SAID: "Panic: index out of bounds"}


def test_model_that_generates_encodes_one_text_and_several(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that generates takes steps with one text, with several together, and with the longest."""
    location = BundleLocation("pronounce", 1, models_dir / "pronounce" / "1")
    model = build_model(location, "fp32", lambda name, graph, **_: OnnxGraph.load(name, graph, 1))
    encoded: list[list[int]] = []
    encode = CachedRows.encode

    def watched(self: CachedRows, sources: Sequence[Encoding], rows: Sequence[int]) -> None:
        encoded.append([len(source) for source in sources])
        encode(self, sources, rows)

    monkeypatch.setattr(CachedRows, "encode", watched)
    warm_up(model)
    assert [1] in encoded
    assert max(map(len, encoded)) == 8
    assert [model.manifest.limits.max_source_tokens] in encoded
