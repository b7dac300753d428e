"""The choice of the next token of each text: the likeliest one, or one drawn by its probability."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.drawing import drawn, likeliest
from headwaiter_server.model.contract import FloatArray, IntArray

# What the logits of tokens are that a model never generates: of others they are far above.
LOWEST = float(np.finfo(np.float32).min)


class ChosenToken(NamedTuple):
    """A token that was chosen.

    Attributes:
        token_id: The token.
        logprob: Log of the probability that the model gave it, before temperature, penalties and cuts; None unless
            asked for.
        top: The likeliest tokens and their log-probabilities, likeliest first; as many as asked for, without tokens
            that the model never generates.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Chooser:
    """Chooses the tokens of one text, one after the other; what it chooses depends on nothing but that text.

    Attributes:
        chosen: How many tokens it has chosen.
        greedy: Whether it takes the likeliest token, and nothing else is asked for.
    """

    __slots__ = ("_decoding", "_seen", "chosen", "greedy")

    def __init__(self, decoding: Decoding, prompt: Sequence[int] = ()) -> None:
        """Before the first token.

        Args:
            decoding: How to choose; without beams.
            prompt: What the decoder reads before its first token, for the repetition penalty: the whole text where the
                model goes on with it, else the token that the decoder begins with.
        """
        if decoding.seed is None and not decoding.deterministic:
            raise ValueError("tokens are to be drawn, and there is no seed")
        self._decoding = decoding
        penalty = decoding.repetition_penalty
        self._seen = None if penalty == 1.0 else SeenTokens(prompt, penalty)
        self.greedy = decoding.deterministic and decoding.logprobs is None and self._seen is None
        self.chosen = 0

    def next(self, logits: FloatArray) -> ChosenToken:
        """The next token by its logits, `(vocab,)`. Changes nothing: `accept` does."""
        decoding = self._decoding
        scores = logits if self._seen is None else self._seen.penalized(logits)
        token_id = int(scores.argmax()) if decoding.deterministic else drawn(scores, decoding, self.chosen)
        if decoding.logprobs is None:
            return ChosenToken(token_id)
        return with_logprobs(token_id, logits, log_total(logits), decoding.logprobs)

    def accept(self, token_id: int) -> None:
        """Go on behind a token."""
        self.chosen += 1
        if self._seen is not None:
            self._seen.add(token_id)


class SeenTokens:
    """Which tokens a text has, for the repetition penalty."""

    __slots__ = ("_count", "_ids", "_known", "_penalty")

    def __init__(self, ids: Iterable[int], penalty: float) -> None:
        """Begin with some tokens.

        Args:
            ids: The tokens; as often as they like.
            penalty: What their logits are divided by, or multiplied with where they are negative.
        """
        self._penalty = penalty
        self._known = set(ids)
        self._count = len(self._known)
        self._ids: IntArray = np.empty(2 * self._count + 64, np.int64)
        self._ids[: self._count] = sorted(self._known)

    def add(self, token_id: int) -> None:
        """Add a token."""
        if token_id in self._known:
            return
        self._known.add(token_id)
        if self._count == len(self._ids):
            self._ids = np.concatenate((self._ids, np.empty_like(self._ids)))
        self._ids[self._count] = token_id
        self._count += 1

    def and_also(self, token_id: int) -> SeenTokens:
        """The same tokens and one more, apart from this."""
        seen = SeenTokens(self._known, self._penalty)
        seen.add(token_id)
        return seen

    def penalized(self, scores: FloatArray) -> FloatArray:
        """Logits or log-probabilities, `(vocab,)`, those of the tokens penalized; a copy."""
        penalized = scores.copy()
        ids = self._ids[: self._count]
        of_seen = scores[ids]
        with np.errstate(over="ignore"):  # of tokens that are never generated anyway
            penalized[ids] = np.where(of_seen < 0, of_seen * self._penalty, of_seen / self._penalty)
        return penalized


def choose(logits: FloatArray, choosers: Sequence[Chooser], rows: Sequence[int] | None = None) -> list[ChosenToken]:
    """Choose the next token of each of several texts.

    The choosers are changed only when nothing can fail any more: a call that raised may be made again.

    Args:
        logits: `(n, vocab)`, not changed.
        choosers: One for each text.
        rows: The row of each in `logits`; None: the first of `choosers` has the first row, and so on.

    Returns:
        The token of each.
    """
    likeliest_ids: list[int] = []
    if any(chooser.greedy for chooser in choosers):
        likeliest_ids = logits.argmax(axis=-1).tolist()
    tokens = [
        ChosenToken(likeliest_ids[row]) if chooser.greedy else chooser.next(logits[row])
        for row, chooser in zip(range(len(choosers)) if rows is None else rows, choosers, strict=True)
    ]
    for chooser, token in zip(choosers, tokens, strict=True):
        chooser.accept(token.token_id)
    return tokens


def log_total(logits: FloatArray) -> float:
    """What is taken off logits to make them log-probabilities."""
    highest = logits.max()
    return float(highest) + float(np.log(np.exp(logits - highest).sum(dtype=np.float64)))


def with_logprobs(token_id: int, logits: FloatArray, total: float, count: int) -> ChosenToken:
    """A token with its log-probability, and those of the likeliest.

    Args:
        token_id: The token.
        logits: `(vocab,)`.
        total: Their `log_total`.
        count: How many of the likeliest.
    """
    top: tuple[tuple[int, float], ...] = ()
    if count:
        ids = likeliest(logits, count)
        ids = ids[np.argsort(-logits[ids], kind="stable")][:count]
        top = tuple((each, float(logits[each]) - total) for each in ids.tolist() if logits[each] > LOWEST)
    return ChosenToken(token_id, float(logits[token_id]) - total, top)
