"""What a request to generate says, and what it is answered, in plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.sequence import FinishReason
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.pipeline.core import Timings


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request to generate, in plain Python.

    Attributes:
        model: Name, or "".
        version: Version, or 0.
        texts: What to generate from.
        decoding: How; 0 new tokens for as many as there may be.
    """

    model: str
    version: int
    texts: Sequence[str]
    decoding: Decoding


@dataclass(frozen=True, slots=True)
class WrittenToken:
    """A token with how likely it was.

    Attributes:
        token: As the vocabulary writes it.
        logprob: Natural logarithm of its probability.
        top_ids: The likeliest tokens at its place, likeliest first.
        top_tokens: The same, as the vocabulary writes them.
        top_logprobs: Of each of these.
    """

    token: str
    logprob: float
    top_ids: list[int]
    top_tokens: list[str]
    top_logprobs: list[float]


@dataclass(frozen=True, slots=True)
class Alternative:
    """A candidate of beam search."""

    text: str
    token_ids: list[int]
    score: float
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class AttentionReply:
    """What each token attended to.

    Attributes:
        source_tokens: The source as the vocabulary writes it.
        tokens: What was generated, likewise.
        weights: `(tokens, layers, heads, source)`.
    """

    source_tokens: list[str]
    tokens: list[str]
    weights: FloatArray


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """The answer for one text.

    Attributes:
        text: The text.
        token_ids: Its tokens, without the one that ended it.
        finish_reason: Why there are no more.
        source_tokens: Tokens of the source.
        logprobs: Of each token, if asked for.
        score: Of beam search.
        alternatives: Further candidates of beam search, best first.
        attention: If asked for.
        stopped_by: The stop string or token that ended it.
        seed: What chance began with, where tokens were drawn.
        token_seconds: When each token came, since the call arrived; empty of an answer that was remembered.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    source_tokens: int
    logprobs: Sequence[WrittenToken] = ()
    score: float | None = None
    alternatives: Sequence[Alternative] = ()
    attention: AttentionReply | None = None
    stopped_by: str | int | None = None
    seed: int | None = None
    token_seconds: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class GenerationReply:
    """The answer to a `GenerationRequest`, texts in order.

    Attributes:
        model: Who answered.
        texts: What was generated.
        timings: Where the time went.
        characters: Of how much text the tokenizer would take about as long as it takes to write all this down.
    """

    model: ServedModel
    texts: list[GeneratedText]
    timings: Timings
    characters: int


@dataclass(slots=True)
class GenerationPiece:
    """What has come of one text since its piece before.

    Attributes:
        index: Which of the request's texts it is.
        text: What it goes on with.
        token_ids: Its new tokens.
        token_seconds: When each of them came, since the call arrived.
        logprobs: Of each of them, if asked for.
        finished: The whole answer for the text; in its last piece.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    token_seconds: list[float] = field(default_factory=list)
    logprobs: Sequence[WrittenToken] = ()
    finished: GeneratedText | None = None
