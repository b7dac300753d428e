"""What the tasks of encoders do around the model: prompts, dimensions, order, times."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.batching.task import Answer, EncodingEntry, EncodingTask
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import DeadlineExceededError, InvalidRequestError, QueueFullError
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.metrics import Metrics
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.pipeline import (
    ClassificationRequest,
    EmbeddingRequest,
    Pipeline,
    RerankingRequest,
    TaggingRequest,
    TokenizationRequest,
)
from headwaiter_server.scheduling.admission import Admission
from headwaiter_server.scheduling.calls import Call, Pending, Terms


class LetterTokenizer:
    """A token for each character."""

    def __init__(self) -> None:
        self.read = 0

    def encode_all(
        self, texts: list[str], field: str, *, truncate: bool = False, offsets: bool = False
    ) -> list[Encoding]:
        self.read += len(texts)
        places = [[(index, index + 1) for index in range(len(text))] for text in texts]
        return [
            Encoding([ord(letter) for letter in text], truncated="long" in text, offsets=each if offsets else None)
            for text, each in zip(texts, places, strict=True)
        ]

    def encode_pairs(
        self, pairs: list[tuple[str, str]], field: str, *, truncate: bool = False, keep_first: bool = False
    ) -> list[Encoding]:
        return self.encode_all([f"{first}|{second}" for first, second in pairs], field)


class InstantLane:
    """Answers each text at once by a function of it; every second text in a run of its own. Unless it is full."""

    def __init__(self, answer: Callable[[str, bool], FloatArray] | None) -> None:
        self._answer = answer
        self.texts: list[str] = []
        self.full = False

    def foresee(self, _terms: Terms, _texts: int) -> None:
        if self.full:
            raise QueueFullError("no room", 1.0)

    def submit(self, entries: list[EncodingEntry]) -> None:
        for index, entry in enumerate(entries):
            text = "".join(map(chr, entry.payload.source.ids))
            self.texts.append(text)
            if self._answer is not None:
                run = index % 2
                values = self._answer(text, entry.payload.raw)
                entry.resolve(Answer(values, 1.0 + run, 4.0 - run, 5 + run, 50 - run, 7 + run))


class EveryAnswer:
    """A cache that remembers an answer to everything; stands for its one shelf, too."""

    def shelf(self, _lane: object) -> EveryAnswer:
        return self

    def ask(self, call: Call[Answer], tasks: list[EncodingTask], *_: object) -> None:
        for index, task in enumerate(tasks):
            Pending(call, index, task, 1).resolve(Answer(np.ones(1, np.float32), 0.0, 0.0, 0, 0, 0))


class Dispatching:
    """Stands for the dispatcher, which has nothing to do."""

    clock = staticmethod(time.monotonic)

    def wake(self) -> None:
        pass


class Tasks:
    """A pipeline with one model."""

    def __init__(
        self,
        task: bundle_pb2.Task,
        answer: Callable[[str, bool], FloatArray] | None = None,
        embedding: bundle_pb2.Embedding | None = None,
        labels: Sequence[str] = (),
        *,
        remembered: bool = False,
    ) -> None:
        self.lane = InstantLane(answer)
        self.tokenizer = LetterTokenizer()
        described = bundle_pb2.Manifest(task=task, embedding=embedding, labels=labels)
        catalog = Catalog()
        catalog.add(ServedModel("m", 1, "fp32", described, cast("Any", self.tokenizer), cast("Any", self.lane)))
        cache = cast("Any", EveryAnswer()) if remembered else None
        self.pipeline = Pipeline(catalog, cast("Any", Dispatching()), Metrics(), max_texts=100, cache=cache)
        self.admission = Admission(10, 1000, 200)

    async def run(self, method: Any, request: Any, seconds: float = math.inf) -> Any:  # noqa: ANN401 - any task
        now = self.pipeline.clock()
        with self.admission.admit(1) as permit:
            return await method(permit, Terms(now, now + seconds), request)


def embedder(answer: Callable[[str, bool], FloatArray], **embedding: Any) -> Tasks:  # noqa: ANN401 - as in the message
    described = bundle_pb2.Embedding(dimension=3, prompts={"query": "q: ", "passage": "p: "}, **embedding)
    return Tasks(bundle_pb2.TASK_EMBED, answer, embedding=described)


def raw_or_unit(text: str, raw: bool) -> FloatArray:  # noqa: FBT001 - as the lane is told
    return np.array([3, 4, 12] if raw else [3 / 13, 4 / 13, 12 / 13], np.float32)


@pytest.mark.parametrize(
    ("dimensions", "normalize", "expected"),
    [
        (0, True, [3 / 13, 4 / 13, 12 / 13]),
        (3, True, [3 / 13, 4 / 13, 12 / 13]),
        (0, False, [3, 4, 12]),
        (2, True, [0.6, 0.8]),
        (2, False, [3, 4]),
        (1, None, [1]),
    ],
)
async def test_vectors_are_cut_before_they_are_normalised(
    *,
    dimensions: int,
    normalize: bool | None,
    expected: list[float],
) -> None:
    """The beginning of the raw vector gets its own length of 1; a whole vector is the model's own."""
    it = embedder(raw_or_unit, normalized=True)
    request = EmbeddingRequest("", 0, ["a", "b"], dimensions=dimensions, normalize=normalize)
    reply = await it.run(it.pipeline.embed, request)
    np.testing.assert_allclose(reply.vectors, [expected, expected], rtol=1e-6)
    assert reply.vectors.dtype == np.float32


async def test_vector_of_zeros_stays_one() -> None:
    """Where there is no direction, none is made up, and nothing becomes NaN."""
    it = embedder(lambda text, raw: np.zeros(3, np.float32), normalized=True)
    reply = await it.run(it.pipeline.embed, EmbeddingRequest("", 0, ["a"], dimensions=2))
    assert reply.vectors.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("default", "asked", "read"),
    [("", None, "x"), ("query", None, "q: x"), ("query", "", "x"), ("query", "passage", "p: x"), ("", "query", "q: x")],
)
async def test_prompts(default: str, asked: str | None, read: str) -> None:
    """The prompt that is named, else the default; the empty name is none."""
    it = embedder(raw_or_unit, default_prompt=default)
    reply = await it.run(it.pipeline.embed, EmbeddingRequest("", 0, ["x"], prompt=asked))
    assert it.lane.texts == [read]
    assert reply.reading.tokens == [len(read)]


async def test_times_of_several_runs_are_the_largest() -> None:
    """Of texts in several runs the largest of each time counts, and the first run; each text has its reading."""
    it = embedder(raw_or_unit)
    reply = await it.run(it.pipeline.embed, EmbeddingRequest("", 0, ["a", "long", "c", "long d"]))
    timings = reply.timings
    assert (timings.queue_seconds, timings.inference_seconds) == (2.0, 4.0)
    assert (timings.batch_size, timings.batch_tokens, timings.batch_id) == (6, 50, 7)
    assert (reply.reading.tokens, reply.reading.truncated) == ([1, 4, 1, 6], [1, 3])


async def test_ranking_is_stable_and_cut() -> None:
    """Best first, of equal scores the earlier, no more than were asked for."""
    scores = {"q|a": 0.5, "q|b": 0.9, "q|c": 0.5, "q|d": 0.1}
    it = Tasks(bundle_pb2.TASK_RERANK, lambda text, raw: np.float32(scores[text]))  # type: ignore[arg-type, return-value]
    for top_n, expected in [(0, [1, 0, 2, 3]), (2, [1, 0]), (50, [1, 0, 2, 3])]:
        reply = await it.run(it.pipeline.rerank, RerankingRequest("", 0, "q", list("abcd"), top_n=top_n))
        assert [each.index for each in reply.ranking] == expected
    assert reply.ranking[0].score == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("task", "method", "request_"),
    [
        (bundle_pb2.TASK_TAG, "embed", EmbeddingRequest("", 0, ["a"])),
        (bundle_pb2.TASK_EMBED, "classify", ClassificationRequest("", 0, ["a"])),
        (bundle_pb2.TASK_EMBED, "tag", TaggingRequest("", 0, ["a"])),
        (bundle_pb2.TASK_CLASSIFY, "rerank", RerankingRequest("", 0, "q", ["a"])),
    ],
)
async def test_models_for_something_else_are_refused(task: bundle_pb2.Task, method: str, request_: object) -> None:
    """A model is asked only for what it is for, and the error says what that is."""
    it = Tasks(task)
    with pytest.raises(InvalidRequestError, match="'m' is a model to") as refused:
        await it.run(getattr(it.pipeline, method), request_)
    assert refused.value.field == "model"
    assert it.lane.texts == []


@pytest.mark.parametrize(
    ("task", "method", "request_", "field"),
    [
        (bundle_pb2.TASK_EMBED, "embed", EmbeddingRequest("", 0, []), "texts"),
        (bundle_pb2.TASK_EMBED, "embed", EmbeddingRequest("", 0, ["a"] * 101), "texts"),
        (bundle_pb2.TASK_EMBED, "embed", EmbeddingRequest("", 0, ["a"], dimensions=1), "dimensions"),
        (bundle_pb2.TASK_EMBED, "embed", EmbeddingRequest("", 0, ["a"], prompt="x"), "prompt"),
        (bundle_pb2.TASK_CLASSIFY, "classify", ClassificationRequest("", 0, ["a"], ["b", "c"]), "second_texts"),
        (bundle_pb2.TASK_RERANK, "rerank", RerankingRequest("", 0, " ", ["a"]), "query"),
        (bundle_pb2.TASK_RERANK, "rerank", RerankingRequest("", 0, "q" * 100_000, ["a"] * 100), "query"),
        (bundle_pb2.TASK_TAG, "tokenize", TokenizationRequest("", 0, ["a" * 10_000] * 30), "texts"),
    ],
)
async def test_what_is_over_a_limit_never_queues(
    task: bundle_pb2.Task, method: str, request_: object, field: str
) -> None:
    """A refused request names its field, and none of its texts waits; its place is free again."""
    it = Tasks(task)
    with pytest.raises(InvalidRequestError) as refused:
        await it.run(getattr(it.pipeline, method), request_)
    assert refused.value.field == field
    assert it.lane.texts == []
    assert it.admission.calls == 0


async def test_deadline_of_a_text_that_is_not_answered() -> None:
    """Who waits for longer than the deadline is told so."""
    it = Tasks(bundle_pb2.TASK_CLASSIFY)
    with pytest.raises(DeadlineExceededError):
        await it.run(it.pipeline.classify, ClassificationRequest("", 0, ["a"]), seconds=0.01)


async def test_text_that_is_late_already_does_not_wait() -> None:
    """A deadline that has passed while the texts were tokenized is told as such, and none of them waits."""
    it = Tasks(bundle_pb2.TASK_CLASSIFY)
    with pytest.raises(DeadlineExceededError):
        await it.run(it.pipeline.classify, ClassificationRequest("", 0, ["a"]), seconds=-0.01)
    assert it.lane.texts == []


@pytest.mark.parametrize(
    ("task", "method", "request_"),
    [
        (bundle_pb2.TASK_EMBED, Pipeline.embed, EmbeddingRequest("", 0, ["a"])),
        (bundle_pb2.TASK_CLASSIFY, Pipeline.classify, ClassificationRequest("", 0, ["a"])),
        (bundle_pb2.TASK_TAG, Pipeline.tag, TaggingRequest("", 0, ["a"])),
        (bundle_pb2.TASK_RERANK, Pipeline.rerank, RerankingRequest("", 0, "q", ["a"])),
    ],
)
async def test_texts_of_a_call_that_is_refused_anyway_are_not_read(
    task: bundle_pb2.Task,
    method: Any,  # noqa: ANN401 - any task's
    request_: object,
) -> None:
    """Reading costs what an overloaded server has least of; and before they were read, nothing is held."""
    it = Tasks(task, raw_or_unit, labels=["O"])
    it.lane.full = True
    with pytest.raises(QueueFullError):
        await it.run(partial(method, it.pipeline), request_)
    assert it.tokenizer.read == 0


async def test_what_is_remembered_is_answered_by_a_server_that_is_full() -> None:
    """Nothing of it waits, and only its texts tell that it is remembered."""
    it = Tasks(bundle_pb2.TASK_CLASSIFY, remembered=True)
    it.lane.full = True
    reply = await it.run(it.pipeline.classify, ClassificationRequest("", 0, ["a", "b"]))
    assert reply.scores == [1, 1]
    assert it.tokenizer.read == 2


async def test_many_texts_are_tokenized_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of few texts is tokenized at once, without a thread; one of many or long ones does not hold the loop."""
    threaded = 0

    async def to_thread(encode: Callable[[], list[Encoding]]) -> list[Encoding]:
        nonlocal threaded
        threaded += 1
        return encode()

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    it = Tasks(bundle_pb2.TASK_CLASSIFY, raw_or_unit)
    for texts, seconds, expected in (
        (["a"] * 32, [], 0),
        (["a"] * 100, [], 1),
        (["a" * 20_000], [], 2),
        (["a"], ["b" * 20_000], 3),
    ):
        await it.run(it.pipeline.classify, ClassificationRequest("", 0, texts, seconds))
        assert threaded == expected


async def test_spans_of_many_texts_are_found_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans are put together token by token: for few texts at once, for many without holding the loop."""
    threads: list[object] = []

    async def to_thread(read: Callable[[], object]) -> object:
        threads.append(read)
        return read()

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    it = Tasks(bundle_pb2.TASK_TAG, lambda text, raw: np.ones((len(text), 1), np.float32), labels=["O"])
    await it.run(it.pipeline.tag, TaggingRequest("", 0, ["a"] * 10))
    assert not threads
    await it.run(it.pipeline.tag, TaggingRequest("", 0, ["a"] * 100))
    assert len(threads) == 2
