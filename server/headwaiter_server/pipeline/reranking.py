"""Texts in the order in which they answer a query, and scores of pairs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.model.contract import FloatArray
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


@dataclass(frozen=True, slots=True)
class PairsRequest:
    """A request to score pairs of a query and a text, in plain Python.

    Attributes:
        model: Name, or "".
        version: Version, or 0.
        queries: What is looked for, in each pair.
        texts: Where it may stand; one for each query.
        truncate: Whether texts are cut where query and text together are over the model's limit.
        raw_scores: Whether scores are those before the sigmoid.
    """

    model: str
    version: int
    queries: Sequence[str]
    texts: Sequence[str]
    truncate: bool = False
    raw_scores: bool = False


@dataclass(frozen=True, slots=True)
class PairsReply:
    """The answer to a `PairsRequest`, pairs in order.

    Attributes:
        model: Who answered.
        scores: `(pairs,)`.
        reading: How the pairs were read.
        timings: Where the time went.
    """

    model: ServedModel
    scores: FloatArray
    reading: Reading
    timings: Timings


async def rerank(core: Core, permit: Permit, terms: Terms, request: RerankingRequest) -> RerankingReply:
    """Order the texts of a request by how well they answer its query."""
    texts = list(request.texts)
    pairs = PairsRequest(
        request.model, request.version, [request.query] * len(texts), texts, request.truncate, request.raw_scores
    )
    scored = await score_pairs(core, permit, terms, pairs)
    scores = scored.scores
    # Sorting is stable, so that of equal scores the earlier text stays first.
    order = np.argsort(-scores, kind="stable")[: request.top_n or len(texts)].tolist()
    ranking = [RankedText(index, float(scores[index])) for index in order]
    return RerankingReply(scored.model, ranking, scored.reading, scored.timings)


async def score_pairs(core: Core, permit: Permit, terms: Terms, request: PairsRequest) -> PairsReply:
    """Score how well each text of a request answers its query."""
    model = core.claim(permit, request.model, request.version, bundle_pb2.TASK_RERANK)
    queries, texts, truncate = request.queries, list(request.texts), request.truncate
    core.hold(permit, texts)
    if len(queries) != len(texts):
        raise InvalidRequestError("query", f"has {len(queries)} entries, texts has {len(texts)}: send one for each")
    # One query may stand for all of a thousand texts.
    if any(not query.strip() for query in set(queries)):
        raise InvalidRequestError("query", "is empty: nothing is left of it to read")
    characters = sum(map(len, texts)) + sum(map(len, queries))
    if characters > _MOST_CHARACTERS:
        raise InvalidRequestError(
            "query", f"has {characters} characters together with each text, the limit is {_MOST_CHARACTERS}"
        )

    def encode() -> list[Encoding]:
        pairs = zip(queries, texts, strict=True)
        return model.tokenizer.encode_pairs(pairs, "texts", truncate=truncate, keep_first=True)

    answered = await core.infer(model, terms, encode, len(texts), characters, raw=request.raw_scores)
    scores = np.array([float(value) for value in answered.values], np.float32)
    return PairsReply(model, scores, answered.reading, answered.timings)
