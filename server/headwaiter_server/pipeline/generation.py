"""Texts to generated texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.generation.sequence import FinishReason, Generated, GenerationTask
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.pipeline.core import Core, Lane, Timings
from headwaiter_server.scheduling.admission import Permit
from headwaiter_server.scheduling.calls import Terms


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request to generate, in plain Python.

    Attributes:
        model: Name, or "".
        version: Version, or 0.
        texts: What to generate from.
        max_new_tokens: Limit for each text; 0 for the model's.
    """

    model: str
    version: int
    texts: Sequence[str]
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """The answer for one text."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    source_tokens: int


@dataclass(frozen=True, slots=True)
class GenerationReply:
    """The answer to a `GenerationRequest`, texts in order."""

    model: ServedModel
    texts: list[GeneratedText]
    timings: Timings


async def generate(core: Core, permit: Permit, terms: Terms, request: GenerationRequest) -> GenerationReply:
    """Generate from each text of a request."""
    model = core.claim(permit, request.model, request.version, bundle_pb2.TASK_GENERATE)
    limit = _new_tokens_limit(model, request.max_new_tokens)
    started = core.clock()
    texts = list(request.texts)
    core.hold(permit, texts)

    def encode() -> list[Encoding]:
        return model.tokenizer.encode_all(texts, "texts")

    encodings = await core.read(terms.spending, encode, len(texts), sum(map(len, texts)))
    submitted = core.clock()
    source_tokens = sum(map(len, encodings))
    terms.trail.read(started, submitted, source_tokens)
    tasks = [GenerationTask(each, limit) for each in encodings]
    results = await core.run(cast("Lane[GenerationTask, Generated]", model.lane), terms, submitted, tasks)
    core.metrics.tokens(
        model.name,
        source=source_tokens,
        generated=sum(len(result.token_ids) for result in results),
    )
    return GenerationReply(
        model,
        [
            GeneratedText(model.tokenizer.decode(result.token_ids), result.token_ids, result.finish_reason, len(source))
            for source, result in zip(encodings, results, strict=True)
        ],
        Timings.of(submitted - started, results),
    )


def _new_tokens_limit(model: ServedModel, asked: int) -> int:
    limit = model.manifest.limits.max_new_tokens
    if asked > limit:
        raise InvalidRequestError("max_new_tokens", f"is {asked}, the limit of model {model.name!r} is {limit}")
    return asked or limit
