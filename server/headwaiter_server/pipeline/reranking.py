"""Texts in the order in which they answer a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.pipeline.core import Core, Reading, Timings
from headwaiter_server.scheduling.admission import Permit
from headwaiter_server.scheduling.calls import Terms

# The query is read anew with each text, so that a message may ask for a thousand times its own length.
_MOST_CHARACTERS = 8 << 20


@dataclass(frozen=True, slots=True)
class RerankingRequest:
    """A request to rerank, in plain Python.

    Attributes:
        model: Name, or "".
        version: Version, or 0.
        query: What is looked for.
        texts: Where it may stand.
        truncate: Whether texts are cut where query and text together are over the model's limit.
        raw_scores: Whether scores are those before the sigmoid.
        top_n: Most texts to return; 0 for all.
    """

    model: str
    version: int
    query: str
    texts: Sequence[str]
    truncate: bool = False
    raw_scores: bool = False
    top_n: int = 0


@dataclass(frozen=True, slots=True)
class RankedText:
    """One text's place: its index in the request, and its score."""

    index: int
    score: float


@dataclass(frozen=True, slots=True)
class RerankingReply:
    """The answer to a `RerankingRequest`.

    Attributes:
        model: Who answered.
        ranking: Best first; of equal scores, the earlier text first.
        reading: How the texts were read, in the order of the request.
        timings: Where the time went.
    """

    model: ServedModel
    ranking: list[RankedText]
    reading: Reading
    timings: Timings


async def rerank(core: Core, permit: Permit, terms: Terms, request: RerankingRequest) -> RerankingReply:
    """Order the texts of a request by how well they answer its query."""
    model = core.find(request.model, request.version, bundle_pb2.TASK_RERANK)
    started = core.clock()
    query, texts, truncate = request.query, list(request.texts), request.truncate
    core.hold(permit, texts)
    if not query.strip():
        raise InvalidRequestError("query", "is empty: nothing is left of it to read")

    characters = sum(map(len, texts)) + len(query) * len(texts)
    if characters > _MOST_CHARACTERS:
        raise InvalidRequestError(
            "query", f"has {characters} characters together with each text, the limit is {_MOST_CHARACTERS}"
        )

    def encode() -> list[Encoding]:
        pairs = ((query, text) for text in texts)
        return model.tokenizer.encode_pairs(pairs, "texts", truncate=truncate, keep_first=True)

    sources = await core.read(terms.spending, encode, len(texts), characters)
    answered = await core.infer(model, terms, started, sources, raw=request.raw_scores)
    scores = np.array([float(value) for value in answered.values], np.float32)
    # Sorting is stable, so that of equal scores the earlier text stays first.
    order = np.argsort(-scores, kind="stable")[: request.top_n or len(texts)].tolist()
    ranking = [RankedText(index, float(scores[index])) for index in order]
    return RerankingReply(model, ranking, answered.reading, answered.timings)
