"""Texts to vectors."""

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

# Of a model's prompts, how many an error names.
_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A request for vectors, in plain Python.

    Attributes:
        model: Name, or "".
        version: Version, or 0.
        texts: What to embed.
        truncate: Whether a text over the model's limit is cut at its end.
        prompt: Name of the prompt that is put before each text; "" for none, None for the model's default.
        dimensions: How many numbers of each vector are wanted; 0 for all.
        normalize: Whether vectors get length 1; None for what the model's do.
    """

    model: str
    version: int
    texts: Sequence[str]
    truncate: bool = False
    prompt: str | None = None
    dimensions: int = 0
    normalize: bool | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingReply:
    """The answer to an `EmbeddingRequest`, texts in order.

    Attributes:
        model: Who answered.
        vectors: `(texts, dimension)`.
        reading: How the texts were read, the prompt included.
        timings: Where the time went.
    """

    model: ServedModel
    vectors: FloatArray
    reading: Reading
    timings: Timings


async def embed(core: Core, permit: Permit, terms: Terms, request: EmbeddingRequest) -> EmbeddingReply:
    """Turn each text of a request into a vector."""
    model = core.claim(permit, request.model, request.version, bundle_pb2.TASK_EMBED)
    described = model.manifest.embedding
    dimensions = _dimensions(described.dimension, request.dimensions)
    normalize = described.normalized if request.normalize is None else request.normalize
    prompt = _prompt(described, request.prompt)
    texts = _prompted(prompt, request.texts) if prompt else list(request.texts)
    core.hold(permit, texts)

    def encode() -> list[Encoding]:
        return model.tokenizer.encode_all(texts, "texts", truncate=request.truncate)

    # The length of a vector's beginning is not the length of the vector: it is normalised after it was cut.
    shortened = dimensions < described.dimension
    raw = shortened or not normalize
    answered = await core.infer(model, terms, encode, len(texts), sum(map(len, texts)), raw=raw)
    vectors = np.concatenate(answered.values).reshape(len(texts), -1)
    if shortened:
        vectors = vectors[:, :dimensions]
        vectors = _normalized(vectors) if normalize else vectors
    return EmbeddingReply(model, vectors, answered.reading, answered.timings)


def _dimensions(limit: int, asked: int) -> int:
    if asked > limit:
        raise InvalidRequestError("dimensions", f"is {asked}, the model's vectors have {limit}")
    return asked or limit


def _prompt(described: bundle_pb2.Embedding, asked: str | None) -> str:
    name = described.default_prompt if asked is None else asked
    if not name:
        return ""
    if name not in described.prompts:
        names = sorted(described.prompts)
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        known = f"its prompts are {', '.join(names[:_MOST_NAMED])}{more}" if names else "it has no prompts"
        raise InvalidRequestError("prompt", f"is {name[:100]!r}, which the model does not know: {known}")
    return described.prompts[name]


def _prompted(prompt: str, texts: Sequence[str]) -> list[str]:
    for index, text in enumerate(texts):
        if not text.strip():
            # With a prompt before it the tokenizer would find something to read.
            raise InvalidRequestError(f"texts[{index}]", "is empty: nothing is left of it to read")
    return [prompt + text for text in texts]


def _normalized(vectors: FloatArray) -> FloatArray:
    """Vectors of length 1; a vector of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    normalized: FloatArray = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return normalized
