"""Graphs on memory of their caller: read and written where it lies, and nothing copied."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from headwaiter_server.model.contract import Array
from headwaiter_server.model.onnx import OnnxGraph
from headwaiter_server.pacing import giving_way

from .cached_graphs import CACHE, HEAD_DIM, HEADS, VOCAB, decoder_bytes

PLACES = 8


@pytest.fixture(scope="module")
def graph() -> OnnxGraph:
    """A decoder of two layers."""
    return OnnxGraph.load("decoder", decoder_bytes(), 1)


def memory(rows: int) -> dict[str, Array]:
    """Inputs of so many rows, which all read token 3 at their first place."""
    kept = {name: np.zeros((rows, HEADS, PLACES, HEAD_DIM), np.float32) for name in CACHE.names()}
    return {"input_ids": np.full((rows, 1), 3), "past_lengths": np.zeros(rows, np.int64), **kept}


def outputs(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Room for logits; keys and values are written where they are read."""
    logits = np.full((len(inputs["input_ids"]), VOCAB), np.nan, np.float32)
    return {"logits": logits, **{f"new_{name}": inputs[name] for name in CACHE.names()}}


def test_memory_is_read_and_written_in_place(graph: OnnxGraph) -> None:
    """What the arrays hold when it runs counts, and what comes out lies in them afterwards."""
    inputs = memory(2)
    found = outputs(inputs)
    bound = graph.bind(inputs, found)
    bound.run()
    (expected,) = graph.run(["logits"], memory(2))
    assert np.array_equal(found["logits"], expected)
    assert all(inputs[name][:, :, 0].any() and not inputs[name][:, :, 1:].any() for name in CACHE.names())
    inputs["input_ids"][1] = 4
    bound.run()
    assert np.array_equal(found["logits"][0], expected[0])
    assert not np.array_equal(found["logits"][1], expected[1])


def test_an_input_can_be_read_from_elsewhere(graph: OnnxGraph) -> None:
    """Another array of another length takes the place of one that was bound, until the next one does."""
    inputs = memory(1)
    found = outputs(inputs)
    bound = graph.bind(inputs, found)
    bound.give("input_ids", np.array([[3, 5, 6]]))
    bound.run()
    together = found["logits"].copy()
    bound.give("input_ids", inputs["input_ids"])
    for place, token in enumerate((3, 5, 6)):
        inputs["input_ids"][0], inputs["past_lengths"][0] = token, place
        bound.run()
    np.testing.assert_allclose(found["logits"], together, atol=1e-4)


def test_memory_lives_as_long_as_what_is_bound_to_it(graph: OnnxGraph) -> None:
    """Who binds arrays need not keep them."""
    bound = graph.bind(inputs := memory(1), found := outputs(inputs))
    logits = found["logits"]
    del inputs, found
    others = [np.full((1, HEADS, PLACES, HEAD_DIM), np.nan, np.float32) for _ in range(50)]
    bound.run()
    assert np.isfinite(logits).all()
    assert len(others) == 50


def test_memory_in_pieces_is_refused(graph: OnnxGraph) -> None:
    """The runtime would copy it, and nobody would see what is written there."""
    inputs = memory(2)
    inputs["key_0"] = np.zeros((2, HEADS, 2 * PLACES, HEAD_DIM), np.float32)[:, :, ::2]
    with pytest.raises(ValueError, match="must lie in one piece"):
        graph.bind(inputs, outputs(inputs))


def test_runs_give_way_like_others(graph: OnnxGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where long work takes pauses, these runs do as well."""
    pauses: list[float] = []
    monkeypatch.setattr("headwaiter_server.pacing.time.sleep", pauses.append)
    inputs = memory(1)
    bound = graph.bind(inputs, outputs(inputs))
    bound.run()
    assert not pauses
    with giving_way():
        bound.run()
    assert len(pauses) == 1
