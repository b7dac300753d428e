"""Embed, Classify, Tag, Rerank and Tokenize over a real socket, against the bundles' graphs run one text at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headwaiter import (
    AsyncClient,
    Client,
    GraphKind,
    HeadwaiterError,
    InvalidRequestError,
    NotFoundError,
    Task,
)
from headwaiter_proto.v1 import inference_pb2

from .bundle_answers import BundleAnswers
from .process import ServerProcess
from .raw import refused
from .tiny_encoders import LABELS, PROMPTS

pytestmark = pytest.mark.torch

SERVICE = "/headwaiter.v1.InferenceService"
CLOSE = 1e-5
TEXTS = [
    "the waiter walked to the table",
    "soup",
    "Ada Lovelace wrote the first notes of the engine, and the engine was long.",
    "fire and water",
    "in London the second question is short; in Paris the answer is long: read and read and read",
]


@pytest.fixture(scope="session")
def answers(encoders_dir: Path) -> dict[str, BundleAnswers]:
    """What each bundle answers by itself."""
    return {task: BundleAnswers.of(encoders_dir / task / "1") for task in ("embed", "classify", "tag", "rerank")}


@pytest.fixture
def client(encoder_server: ServerProcess) -> Iterator[Client]:
    with Client(encoder_server.grpc) as connected:
        yield connected


def test_models_say_what_they_are(client: Client) -> None:
    """Each model is listed with its task, its labels and its vectors."""
    infos = {info.name: info for info in client.models()}
    assert {name: info.task for name, info in infos.items()} == {
        "classify": Task.CLASSIFY,
        "embed": Task.EMBED,
        "rerank": Task.RERANK,
        "tag": Task.TAG,
    }
    assert {name for name, info in infos.items() if info.graph_kind is GraphKind.PACKED} == {*infos} - {"tag"}
    assert infos["tag"].labels == tuple(LABELS)
    assert infos["tag"].embedding is None
    embedding = infos["embed"].embedding
    assert embedding is not None
    assert (embedding.dimension, embedding.normalized, embedding.prompts) == (32, True, PROMPTS)


@pytest.mark.parametrize(
    ("normalize", "output"), [(None, "unit_embedding"), (True, "unit_embedding"), (False, "embedding")]
)
def test_embed(
    client: Client,
    answers: dict[str, BundleAnswers],
    *,
    normalize: bool | None,
    output: str,
) -> None:
    """Each text gets the vector that the graph gives it alone."""
    reply = client.embed(TEXTS, model="embed", normalize=normalize)
    expected = np.stack([answers["embed"].to(text, output=output) for text in TEXTS])
    np.testing.assert_allclose(reply.vectors, expected, atol=CLOSE)
    assert (reply.model, reply.version, reply.variant, reply.dimension) == ("embed", 1, "fp32", 32)
    assert reply.reading.tokens == tuple(len(answers["embed"].tokenizer.encode(text).ids) for text in TEXTS)
    assert reply.reading.truncated == ()
    assert reply.timings.batch_size >= 1


@pytest.mark.parametrize("normalize", [True, False])
def test_embed_fewer_dimensions(
    client: Client,
    answers: dict[str, BundleAnswers],
    *,
    normalize: bool,
) -> None:
    """The first numbers of the raw vector, of length 1 if that is asked for."""
    reply = client.embed(TEXTS, model="embed", dimensions=7, normalize=normalize)
    expected = np.stack([answers["embed"].to(text, output="embedding")[:7] for text in TEXTS])
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(reply.vectors, expected, atol=CLOSE)


def test_prompts_go_before_the_text(client: Client, answers: dict[str, BundleAnswers]) -> None:
    """A prompt is chosen by its name; no name is none, as the model has no default."""
    for prompt, before in [("query", "query: "), ("passage", "passage: "), ("", ""), (None, "")]:
        reply = client.embed("soup", model="embed", prompt=prompt)
        np.testing.assert_allclose(
            reply.vectors[0], answers["embed"].to(before + "soup", output="unit_embedding"), atol=CLOSE
        )


def test_truncation_is_asked_for_and_told(client: Client, answers: dict[str, BundleAnswers]) -> None:
    """A text over the limit is an error without `truncate`; with it, it is cut, and the reply says which."""
    long = "read the long text " * 40
    with pytest.raises(InvalidRequestError, match=r"texts\[1\]: has \d+ tokens, the limit is 48"):
        client.embed(["soup", long], model="embed")
    reply = client.embed(["soup", long, "fire"], model="embed", truncate=True)
    assert reply.reading.truncated == (1,)
    assert reply.reading.tokens[1] == answers["embed"].limit
    np.testing.assert_allclose(reply.vectors[1], answers["embed"].to(long, output="unit_embedding"), atol=CLOSE)


@pytest.mark.parametrize(("raw", "output"), [(False, "probabilities"), (True, "scores")])
def test_classify(
    client: Client,
    answers: dict[str, BundleAnswers],
    *,
    raw: bool,
    output: str,
) -> None:
    """Texts and pairs of texts get a score for each label."""
    for seconds in ([], TEXTS[::-1]):
        reply = client.classify(TEXTS, seconds, model="classify", raw_scores=raw)
        assert reply.labels == ("negative", "neutral", "positive")
        pairs: list[tuple[str, str | None]] = [(text, None) for text in TEXTS]
        if seconds:
            pairs = list(zip(TEXTS, seconds, strict=True))
        for (text, second), each in zip(pairs, reply.classifications, strict=True):
            np.testing.assert_allclose(each.scores, answers["classify"].to(text, second, output=output), atol=CLOSE)


def test_long_pairs_are_cut_at_the_longer_text(client: Client) -> None:
    """Of a pair over the limit the longer text is cut, so that the result does not depend on what lay beyond."""
    seconds = ["read the long text " * count for count in (40, 60)]
    replies = [client.classify("soup", second, model="classify", truncate=True) for second in seconds]
    assert [reply.reading.truncated for reply in replies] == [(0,), (0,)]
    assert replies[0].classifications[0].scores == pytest.approx(replies[1].classifications[0].scores, abs=CLOSE)
    with pytest.raises(InvalidRequestError, match=r"texts\[0\]"):
        client.classify("soup", seconds[0], model="classify")


def test_tag_every_token(client: Client, answers: dict[str, BundleAnswers]) -> None:
    """Without aggregation each token is a span: its characters, its best label, its probability."""
    text = "Ada é London"
    (tagging,) = client.tag(text, model="tag", aggregate=False).taggings
    encoded = answers["tag"].tokenizer.encode(text)
    values = answers["tag"].to(text, output="probabilities")
    expected = [
        (start, end, LABELS[row.argmax()])
        for (start, end), row in zip(encoded.offsets, values, strict=True)
        if start < end
    ]
    assert [(span.start, span.end, span.label) for span in tagging.spans] == expected
    np.testing.assert_allclose([span.score for span in tagging.spans], values[1:-1].max(axis=1), atol=CLOSE)


@pytest.mark.parametrize("raw", [False, True])
def test_tag_entities(client: Client, answers: dict[str, BundleAnswers], *, raw: bool) -> None:
    """Neighbouring tokens of one kind are one span with their mean score; O is left out."""
    reply = client.tag(TEXTS, model="tag", raw_scores=raw)
    seen = 0
    for text, tagging in zip(TEXTS, reply.taggings, strict=True):
        expected: list[tuple[int, int, str, list[float]]] = []
        previous = "O"
        values = answers["tag"].to(text, output="scores" if raw else "probabilities")
        for (start, end), row in zip(answers["tag"].tokenizer.encode(text).offsets, values, strict=True):
            if start == end:
                continue
            label = LABELS[row.argmax()]
            if label.startswith("I-") and previous[1:] == label[1:]:
                begun, _, kind, scores = expected.pop()
                expected.append((begun, end, kind, [*scores, float(row.max())]))
            elif label != "O":
                expected.append((start, end, label[2:], [float(row.max())]))
            previous = label
        assert [(span.start, span.end, span.label) for span in tagging.spans] == [each[:3] for each in expected]
        for span, each in zip(tagging.spans, expected, strict=True):
            assert span.score == pytest.approx(np.mean(each[3]), abs=1e-4)
        seen += len(expected)
    assert seen > 0


@pytest.mark.parametrize(("raw", "output"), [(False, "probabilities"), (True, "scores")])
def test_rerank(
    client: Client,
    answers: dict[str, BundleAnswers],
    *,
    raw: bool,
    output: str,
) -> None:
    """Texts come best first; of equal ones the earlier first; no more than were asked for."""
    texts = [*TEXTS, TEXTS[1], TEXTS[0]]
    expected = [float(answers["rerank"].to("the question", text, output=output)) for text in texts]
    reply = client.rerank("the question", texts, model="rerank", raw_scores=raw)
    scores = {each.index: each.score for each in reply.ranking}
    np.testing.assert_allclose([scores[index] for index in range(len(texts))], expected, atol=1e-4)
    ranked = [each.index for each in reply.ranking]
    assert [scores[index] for index in ranked] == sorted(scores.values(), reverse=True)
    assert len(reply.reading.tokens) == len(texts)
    top = client.rerank("the question", texts, model="rerank", raw_scores=raw, top_n=2)
    assert len(top.ranking) == 2
    assert client.rerank("q", ["soup"] * 9, model="rerank", top_n=50).ranking == tuple(
        client.rerank("q", ["soup"] * 9, model="rerank").ranking
    )


def test_equal_texts_keep_their_order(client: Client) -> None:
    """Texts that are the same have the same score, and stay as they came."""
    ranking = client.rerank("the question", ["soup"] * 20, model="rerank").ranking
    assert [each.index for each in ranking if each.score == ranking[0].score] == sorted(
        each.index for each in ranking if each.score == ranking[0].score
    )


def test_rerank_cuts_the_texts_and_not_the_query(client: Client) -> None:
    """A long text is cut; a query that leaves no room for one is refused."""
    reply = client.rerank("the question", ["soup", "read " * 100], model="rerank", truncate=True)
    assert reply.reading.truncated == (1,)
    with pytest.raises(InvalidRequestError, match="limit"):
        client.rerank("read " * 100, ["soup"], model="rerank", truncate=True)


def test_tokenize(client: Client, answers: dict[str, BundleAnswers]) -> None:
    """Tokens are those of the tokenizer, for texts over the model's limit and empty ones as well."""
    texts = ["Ada é 😀 x", "read the long text " * 40, ""]
    reply = client.tokenize(texts, model="tag")
    for text, each in zip(texts, reply.tokenizations, strict=True):
        encoded = answers["tag"].tokenizer.encode(text)
        assert each.ids == tuple(encoded.ids)
        assert each.tokens == tuple(encoded.tokens)
        assert list(zip(each.starts, each.ends, strict=True)) == encoded.offsets


Refused = Callable[[Client], Any]


@pytest.mark.parametrize(
    ("call", "field", "words"),
    [
        (lambda it: it.embed([], model="embed"), "texts", ["at least one"]),
        (lambda it: it.embed(["a"] * 1025, model="embed"), "texts", ["more than 1024"]),
        (lambda it: it.embed(["a", "  "], model="embed"), "texts[1]", ["empty"]),
        (lambda it: it.embed(["a", " "], model="embed", prompt="query"), "texts[1]", ["empty"]),
        (lambda it: it.embed("a", model="embed", prompt="nope"), "prompt", ["'nope'", "passage, query"]),
        (lambda it: it.embed("a", model="embed", dimensions=33), "dimensions", ["33", "32"]),
        (lambda it: it.embed("a", model="tag"), "model", ["'tag'", "to tag", "to embed"]),
        (lambda it: it.generate("a", model="embed"), "model", ["to embed", "to generate"]),
        (lambda it: it.classify("a", model="rerank"), "model", ["to rerank"]),
        (lambda it: it.classify(["a", "b"], ["c"], model="classify"), "second_texts", ["1 entries", "texts has 2"]),
        (lambda it: it.classify("a", ["b"] * 1025, model="classify"), "second_texts", ["more than 1024"]),
        (lambda it: it.classify(["a", "b"], ["c", ""], model="classify"), "texts[1]", ["empty"]),
        (lambda it: it.tag("a " * 100, model="tag"), "texts[0]", ["102 tokens", "limit is 48"]),
        (lambda it: it.rerank("", ["a"], model="rerank"), "query", ["empty"]),
        (lambda it: it.rerank("a", [], model="rerank"), "texts", ["at least one"]),
        (lambda it: it.rerank("a", ["b", ""], model="rerank"), "texts[1]", ["empty"]),
        (lambda it: it.tokenize(["a" * 5000] * 60, model="tag"), "texts", ["300000 characters", "262144"]),
    ],
)
def test_bad_input_names_field_and_limit(client: Client, call: Refused, field: str, words: list[str]) -> None:
    """Whatever cannot be answered is refused with its place in the request and the limit."""
    with pytest.raises(InvalidRequestError) as caught:
        call(client)
    assert caught.value.field == field
    for word in words:
        assert word in caught.value.description


def test_unknown_models_and_aggregations(client: Client, encoder_server: ServerProcess) -> None:
    """A model that is not there is named, and so is a way of aggregating from a later version."""
    with pytest.raises(NotFoundError, match="classify, embed, rerank, tag"):
        client.embed("a", model="nobody")
    with pytest.raises(NotFoundError, match="name a model"):
        client.embed("a")
    tag = inference_pb2.TagRequest(model="tag", texts=["a"], aggregation=77)  # type: ignore[arg-type]
    error = refused(encoder_server.grpc, f"{SERVICE}/Tag", tag.SerializeToString())
    assert "aggregation: is 77" in str(error.details())


@pytest.mark.parametrize("method", ["Embed", "Classify", "Tag", "Rerank", "Tokenize"])
def test_undecodable_bytes_are_invalid(encoder_server: ServerProcess, method: str) -> None:
    """Bytes that are no request are refused as such by every method."""
    error = refused(encoder_server.grpc, f"{SERVICE}/{method}", b"\xff\xff\xff")
    assert f"is no headwaiter.v1.{method}Request" in str(error.details())


async def test_company_changes_no_answer_and_bad_mates_cost_nothing(
    encoder_server: ServerProcess, answers: dict[str, BundleAnswers]
) -> None:
    """Among many concurrent calls of all tasks, some of them bad, each answer is the one that the text gets alone."""
    dice = random.Random(3)
    words = " ".join(TEXTS).split()
    texts = [" ".join(dice.choices(words, k=dice.choice([1, 2, 5, 9, 20]))) for _ in range(120)]
    async with AsyncClient(encoder_server.grpc, timeout_seconds=60) as client:

        async def embed(text: str) -> float:
            reply = await client.embed(text, model="embed")
            return float(abs(reply.vectors[0] - answers["embed"].to(text, output="unit_embedding")).max())

        async def classify(text: str) -> float:
            reply = await client.classify(text, model="classify", raw_scores=True)
            scores = np.array(reply.classifications[0].scores)
            return float(abs(scores - answers["classify"].to(text, output="scores")).max())

        async def bad(text: str) -> float:
            with pytest.raises(HeadwaiterError):
                await client.embed([text, ""], model="embed")
            return 0.0

        differences = await asyncio.gather(*((embed, classify, bad)[n % 3](text) for n, text in enumerate(texts)))
    assert max(differences) < CLOSE
