"""What `generate` and `generate_stream` return."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwaiter.results.timings import Timings


class FinishReason(StrEnum):
    """Why a generation ended."""

    END_OF_SEQUENCE = "end_of_sequence"
    """The model ended the sequence itself."""
    LENGTH = "length"
    """The limit on new tokens was reached first."""
    STOP = "stop"
    """A stop string or a stop token of the call ended it."""
    UNKNOWN = "unknown"
    """A reason that this version of the client does not know."""


@dataclass(frozen=True, slots=True)
class LikelyToken:
    """One of the likeliest tokens at a place.

    Attributes:
        token_id: Its id.
        token: As the vocabulary writes it; empty where the server does not tell.
        logprob: Natural logarithm of its probability.
    """

    token_id: int
    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was, by the model's own distribution: before temperature, penalties and cuts.

    Attributes:
        token: The token as the vocabulary writes it; empty where the server does not tell.
        logprob: Natural logarithm of its probability.
        top: The likeliest tokens at its place, likeliest first.
    """

    token: str
    logprob: float
    top: tuple[LikelyToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A candidate of beam search.

    Attributes:
        text: As of `GenerationResult`.
        token_ids: As of `GenerationResult`.
        score: As of `GenerationResult`.
        finish_reason: Why it ended.
    """

    text: str
    token_ids: tuple[int, ...]
    score: float
    finish_reason: FinishReason


# Compared by identity, as arrays have no one answer to whether they are equal.
@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """What each generated token attended to in the source.

    Attributes:
        layers: Layers of the decoder.
        heads: Heads of each.
        source_tokens: The tokens of the input text as the vocabulary writes them, special tokens included.
        tokens: The generated tokens as the vocabulary writes them.
        weights: `(tokens, layers, heads, source_tokens)`; each row over the source sums to 1. Where numpy is
            installed a float32 array that cannot be written to, else a read-only `memoryview` of that shape: both
            have `shape`, `tolist()` and `weights[token, layer, head, source]`.
    """

    layers: int
    heads: int
    source_tokens: tuple[str, ...]
    tokens: tuple[str, ...]
    weights: Any

    def alignment(self, *, layer: int | None = None, head: int | None = None) -> list[list[float]]:
        """The weights of each generated token over the source, as lists of numbers.

        Args:
            layer: Of this layer only, 0 the first; None for the mean of all.
            head: Of this head only, 0 the first; None for the mean of all.

        Returns:
            A list for each generated token, with a number for each token of the source.

        Raises:
            IndexError: There is no such layer or head.
        """
        layers = range(self.layers) if layer is None else [_checked("layer", layer, self.layers)]
        heads = range(self.heads) if head is None else [_checked("head", head, self.heads)]
        count = len(layers) * len(heads)
        return [
            [sum(each) / count for each in zip(*(token[each][of] for each in layers for of in heads), strict=True)]
            for token in self.weights.tolist()
        ]


def _checked(name: str, number: int, count: int) -> int:
    if not 0 <= number < count:
        raise IndexError(f"{name} {number} is none of the {count} {name}s, which are counted from 0")
    return number


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What was generated for one text.

    Attributes:
        text: The generated text, special tokens left out.
        token_ids: The generated token ids, without the end-of-sequence token. Where a stop string ended the text,
            with those that it was made of.
        finish_reason: Why the generation ended.
        source_tokens: Tokens of the input text, special tokens included.
        logprobs: How likely each of `token_ids` was; empty unless asked for.
        score: Of beam search: the log-probability of the text, divided by its length to the power of
            `length_penalty`.
        alternatives: Of beam search: the candidates after this one, which is the best; best first.
        attention: What each token attended to; None unless asked for.
        stopped_by: The stop string, or the id of the stop token, that ended the text; empty unless one did.
        seed: What chance began with; None of texts in which there was none.
        token_seconds: When each of `token_ids` was there, in seconds since the call reached the server. Empty of beam
            search, and of an answer that the server remembered.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    source_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    score: float | None = None
    alternatives: tuple[Hypothesis, ...] = ()
    attention: Attention | None = None
    stopped_by: str = ""
    seed: int | None = None
    token_seconds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateReply:
    """The answer to one `generate` call.

    Attributes:
        model: The model that answered.
        version: The version that answered.
        variant: The variant of the weights that answered: "fp32", "int8".
        generations: One for each text, in the order of the texts.
        timings: Where the time of the call went.
    """

    model: str
    version: int
    variant: str
    generations: tuple[GenerationResult, ...]
    timings: Timings


@dataclass(frozen=True, slots=True)
class GenerationPiece:
    """One piece of a `generate_stream`.

    Attributes:
        index: Which text it is of: 0 for the first.
        text: What the text goes on with. Pieces are whole characters, and add up to the text.
        token_ids: The tokens that were generated since the text's piece before.
        token_seconds: When each of them was there, in seconds since the call reached the server; or empty, as of
            `GenerationResult`.
        logprobs: How likely each of them was; empty unless asked for.
        finished: In the last piece of each text: all that was generated for it, as `generate` would have returned it.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    token_seconds: tuple[float, ...]
    logprobs: tuple[TokenLogprob, ...]
    finished: GenerationResult | None
