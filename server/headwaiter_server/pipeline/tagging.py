"""Texts to labelled stretches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.encoding import Encoding
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.pipeline.core import Core, Reading, Timings
from headwaiter_server.pipeline.spans import Aggregation, Span, spans_of
from headwaiter_server.scheduling.admission import Permit
from headwaiter_server.scheduling.calls import Terms


@dataclass(frozen=True, slots=True)
class TaggingRequest:
    """A request to tag, in plain Python.

    Attributes:
        model: Name, or "".
        version: Version, or 0.
        texts: What to tag.
        truncate: Whether a text over the model's limit is cut at its end.
        raw_scores: Whether scores are those before softmax or sigmoid.
        aggregation: How tokens become spans.
    """

    model: str
    version: int
    texts: Sequence[str]
    truncate: bool = False
    raw_scores: bool = False
    aggregation: Aggregation = "entities"


@dataclass(frozen=True, slots=True)
class TaggingReply:
    """The answer to a `TaggingRequest`, texts in order.

    Attributes:
        model: Who answered.
        spans: Those of each text, in the order of the text.
        reading: How the texts were read.
        timings: Where the time went.
    """

    model: ServedModel
    spans: list[list[Span]]
    reading: Reading
    timings: Timings


async def tag(core: Core, permit: Permit, terms: Terms, request: TaggingRequest) -> TaggingReply:
    """Label stretches of each text of a request."""
    model = core.claim(permit, request.model, request.version, bundle_pb2.TASK_TAG)
    texts = list(request.texts)
    core.hold(permit, texts)

    def encode() -> list[Encoding]:
        return model.tokenizer.encode_all(texts, "texts", truncate=request.truncate, offsets=True)

    characters = sum(map(len, texts))
    answered = await core.infer(model, terms, encode, len(texts), characters, raw=request.raw_scores)
    labels = list(model.manifest.labels)

    def find() -> list[list[Span]]:
        return [
            spans_of(text, source.offsets or (), values, labels, request.aggregation)
            for text, source, values in zip(texts, answered.sources, answered.values, strict=True)
        ]

    return TaggingReply(
        model, await core.read(terms.spending, find, len(texts), characters), answered.reading, answered.timings
    )
