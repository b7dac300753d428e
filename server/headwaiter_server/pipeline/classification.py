"""Texts, or pairs of texts, to scores for labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.pipeline.core import Core, Reading, Timings
from headwaiter_server.scheduling.admission import Permit
from headwaiter_server.scheduling.calls import Terms


@dataclass(frozen=True, slots=True)
class ClassificationRequest:
    """A request to classify, in plain Python.

    Attributes:
        model: Name, or "".
        version: Version, or 0.
        texts: What to classify.
        second_texts: The second text of each pair; empty for single texts.
        truncate: Whether a text over the model's limit is cut; of a pair, the longer one.
        raw_scores: Whether scores are those before softmax or sigmoid.
    """

    model: str
    version: int
    texts: Sequence[str]
    second_texts: Sequence[str] = ()
    truncate: bool = False
    raw_scores: bool = False


@dataclass(frozen=True, slots=True)
class ClassificationReply:
    """The answer to a `ClassificationRequest`, texts in order.

    Attributes:
        model: Who answered; its manifest names the labels.
        scores: `(labels,)` for each text.
        reading: How the texts were read.
        timings: Where the time went.
    """

    model: ServedModel
    scores: list[FloatArray]
    reading: Reading
    timings: Timings


async def classify(core: Core, permit: Permit, terms: Terms, request: ClassificationRequest) -> ClassificationReply:
    """Score each text of a request for each label."""
    model = core.claim(permit, request.model, request.version, bundle_pb2.TASK_CLASSIFY)
    texts, seconds, truncate = list(request.texts), list(request.second_texts), request.truncate
    core.hold(permit, texts)
    if seconds and len(seconds) != len(texts):
        raise InvalidRequestError(
            "second_texts", f"has {len(seconds)} entries, texts has {len(texts)}: send one for each text, or none"
        )

    def encode() -> list[Encoding]:
        tokenizer = model.tokenizer
        if not seconds:
            return tokenizer.encode_all(texts, "texts", truncate=truncate)
        return tokenizer.encode_pairs(zip(texts, seconds, strict=True), "texts", truncate=truncate)

    characters = sum(map(len, texts)) + sum(map(len, seconds))
    answered = await core.infer(model, terms, encode, len(texts), characters, raw=request.raw_scores)
    return ClassificationReply(model, answered.values, answered.reading, answered.timings)
