"""Texts laid out for packed and padded graphs, and their answers handed back, on real onnxruntime."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pytest
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import EngineError
from headwaiter_server.model.contract import Array, Cancellation, EncoderModel, FloatArray, Graph
from headwaiter_server.model.encoder import Head, PackedEncoder, PaddedEncoder
from hypothesis import given, settings
from hypothesis import strategies as st

from .encoder_scheduler import encoder_scheduler
from .graphs import encodings, endless_bytes, expected, opened, packed_bytes, padded_bytes

EMBED, SCORES = Head("embedding", "unit_embedding"), Head("scores", "probabilities")
TAG = Head("scores", "probabilities", per_token=True)
PACKED = PackedEncoder(opened(packed_bytes()), EMBED)
PADDED = PaddedEncoder(opened(padded_bytes()), EMBED, pad_id=77)

Models = pytest.mark.parametrize("model", [PACKED, PADDED], ids=["packed", "padded"])


@Models
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=24))
def test_row_i_belongs_to_text_i(model: EncoderModel, texts: list[tuple[int, bool]]) -> None:
    """For any mix of lengths, token types and kinds of answer, each text gets what it gets alone, in its place."""
    sources = encodings([length for length, _ in texts])
    for source, (_, is_raw), answer in zip(
        sources, texts, model.run(sources, [is_raw for _, is_raw in texts]), strict=True
    ):
        wanted = expected(source)
        np.testing.assert_allclose(answer, wanted if is_raw else wanted / np.linalg.norm(wanted), rtol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        PackedEncoder(opened(packed_bytes(per_token=True)), TAG),
        PaddedEncoder(opened(padded_bytes(per_token=True)), TAG, pad_id=77),
    ],
    ids=["packed", "padded"],
)
def test_every_token_gets_its_answer(model: EncoderModel) -> None:
    """A model that judges tokens gives each text as many rows as it has tokens, without those of the padding."""
    sources = encodings([3, 1, 7])
    raw = [True, False, True]
    for source, is_raw, answer in zip(sources, raw, model.run(sources, raw), strict=True):
        wanted = np.array([[token, source.ids[0]] for token in source.ids])
        np.testing.assert_allclose(answer, wanted if is_raw else wanted / 100, rtol=1e-6)


def test_single_score_is_a_scalar_of_its_own() -> None:
    """A model that gives one score answers each text with an array without axes."""
    model = PackedEncoder(opened(packed_bytes(scalar=True)), SCORES)
    answers = model.run(encodings([2, 3]), [True, True])
    assert [answer.shape for answer in answers] == [(), ()]
    assert [float(answer) for answer in answers] == [1 + 2, 3 + 4 + 5]


@Models
def test_answer_does_not_hold_the_batch(model: EncoderModel) -> None:
    """An answer that somebody keeps does not keep those of its batch-mates in memory."""
    assert all(answer.base is None for answer in model.run(encodings([2, 3, 4]), [True, False, True]))


class WatchedGraph:
    """Notes what is asked of a real graph."""

    def __init__(self, content: bytes, inputs: Sequence[str] = ()) -> None:
        self._graph = opened(content)
        self.inputs, self.outputs = list(inputs) or self._graph.inputs, self._graph.outputs
        self.asked: list[list[str]] = []
        self.fed: list[Mapping[str, Array]] = []

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, Array], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        self.asked.append(sorted(outputs))
        self.fed.append(feeds)
        return self._graph.run(outputs, feeds, cancellation)


def test_run_is_split_where_batch_mates_would_count() -> None:
    """A variant that is certified for short runs only gets no longer one; a longer text is alone in its run."""
    graph = WatchedGraph(packed_bytes())
    model = PackedEncoder(graph, EMBED, max_run_tokens=8)
    sources = encodings([3, 5, 1, 20, 4, 4])
    answers = model.run(sources, [True] * 6)
    assert [len(feeds["segment"]) for feeds in graph.fed] == [8, 1, 20, 8]
    for source, answer in zip(sources, answers, strict=True):
        np.testing.assert_allclose(answer, expected(source), rtol=1e-6)


def test_only_wanted_outputs_are_computed() -> None:
    """Nobody's normalisation is paid for if all want raw vectors, and the other way round."""
    graph = WatchedGraph(packed_bytes())
    model = PackedEncoder(graph, EMBED)
    for raw in ([True, True], [False, False], [True, False]):
        model.run(encodings([2, 3]), raw)
    assert graph.asked == [["embedding"], ["unit_embedding"], ["embedding", "unit_embedding"]]


def test_feeds_are_as_the_contract_has_them() -> None:
    """Packed: ends meet, positions begin anew in each text. Padded: filled on the right, masked, types 0 there."""
    packed, padded = WatchedGraph(packed_bytes()), WatchedGraph(padded_bytes())
    sources = [Encoding([5, 6]), Encoding([7, 8, 9], [0, 1, 1])]
    PackedEncoder(packed, EMBED).run(sources, [True, True])
    PaddedEncoder(padded, EMBED, pad_id=77).run(sources, [True, True])
    for feeds in (packed.fed[0], padded.fed[0]):
        assert {each.dtype for each in feeds.values()} == {np.dtype(np.int64)}
    assert {name: each.tolist() for name, each in packed.fed[0].items()} == {
        "input_ids": [5, 6, 7, 8, 9],
        "position_ids": [0, 1, 0, 1, 2],
        "segment": [0, 0, 1, 1, 1],
        "text_starts": [0, 2],
        "token_type_ids": [0, 0, 0, 1, 1],
    }
    assert {name: each.tolist() for name, each in padded.fed[0].items()} == {
        "input_ids": [[5, 6, 77], [7, 8, 9]],
        "attention_mask": [[1, 1, 0], [1, 1, 1]],
        "token_type_ids": [[0, 0, 0], [0, 1, 1]],
    }


class ShortGraph(WatchedGraph):
    """Loses the last row."""

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, Array], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        return [each[:-1] for each in super().run(outputs, feeds, cancellation)]


def test_output_without_a_row_for_each_text_is_an_error() -> None:
    """A graph that answers fewer texts than it was given answers nobody: rows would belong to the wrong texts."""
    with pytest.raises(ValueError, match="for 2 rows"):
        PackedEncoder(ShortGraph(packed_bytes()), EMBED).run(encodings([2, 3]), [True, True])


def test_graph_without_token_types_is_given_none() -> None:
    """A model that reads no token types is not handed any."""

    class Untyped(WatchedGraph):
        def run(
            self, outputs: Sequence[str], feeds: Mapping[str, Array], cancellation: Cancellation | None = None
        ) -> list[FloatArray]:
            self.fed.append(feeds)
            return [np.zeros((2, 4), np.float32)]

    graph = Untyped(packed_bytes(), inputs=["input_ids", "position_ids", "segment", "text_starts"])
    PackedEncoder(graph, EMBED).run(encodings([2, 3]), [True, True])
    assert "token_type_ids" not in graph.fed[0]


def test_cancellation_ends_a_run_under_way() -> None:
    """A run of a minute ends when it is cancelled from another thread, and so does one that was cancelled before."""
    model = PackedEncoder(opened(endless_bytes()), EMBED)
    cancellation = Cancellation()
    armed = threading.Event()
    arm = cancellation.arm

    class Watched(Cancellation):
        def arm(self, end: object) -> None:
            arm(end)  # type: ignore[arg-type]
            armed.set()

    def cancel() -> None:
        armed.wait(30)
        cancellation.request()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(Exception, match="terminate flag"):
        model.run(encodings([1, 2]), [True, True], Watched())
    thread.join()
    assert cancellation.requested
    with pytest.raises(Exception, match="terminate flag"):
        model.run(encodings([1, 2]), [True, True], cancellation)
    cancellation.request()  # after its run: nothing


class Spilling:
    """A graph that multiplies by nothing what it must not see: one token that overflows, and the whole run is NaN."""

    outputs = ("scores", "probabilities")
    infinite = 666

    def __init__(self, *inputs: str) -> None:
        self.inputs = list(inputs)

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, Array], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        ids = feeds["input_ids"]
        values = np.stack([ids, ids], axis=-1).astype(np.float32)
        if self.infinite in ids:
            values[:] = np.nan
        if "attention_mask" in feeds:
            values[feeds["attention_mask"] == 0] = np.nan  # nobody reads these
        return [values for _ in outputs]


@pytest.mark.parametrize("packed", [True, False])
async def test_answers_that_are_no_numbers_are_none(*, packed: bool) -> None:
    """A text on which the model overflows fails; its batch-mates, which its NaNs have spread to, get their answers."""
    graph = cast("Graph", Spilling())
    async with encoder_scheduler(PackedEncoder(graph, TAG) if packed else PaddedEncoder(graph, TAG, 77)) as parts:
        calls = [parts.submit(Encoding(ids)) for ids in ([1], [2, 3, 4], [5, Spilling.infinite], [6, 7])]
        answers = await asyncio.gather(*(call.future for call in calls), return_exceptions=True)
        assert isinstance(answers.pop(2), EngineError)
        assert [answer[0].values[:, 0].tolist() for answer in answers] == [[1], [2, 3, 4], [6, 7]]  # type: ignore[index]
        assert [str(failure) for failure in parts.failures] == ["the answer holds what is no finite number"]
