"""Beam search: several hypotheses of one text, of which the likeliest go on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from headwaiter_server.generation.choosing import LOWEST, ChosenToken, SeenTokens, log_total, with_logprobs
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.drawing import likeliest
from headwaiter_server.model.contract import FloatArray


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One answer of a beam search.

    Attributes:
        token_ids: Its tokens, without the one that ended it.
        score: Sum of its log-probabilities over a power of its length, both with the token that ended it.
        ended_by: The token that ended it; None if it is as long as it may be.
        tokens: The same tokens with their log-probabilities; None unless asked for.
    """

    token_ids: list[int]
    score: float
    ended_by: int | None
    tokens: tuple[ChosenToken, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Beam:
    """A hypothesis that goes on, or has ended.

    Attributes:
        log_probability: Sum over its tokens.
        chosen: Its last token; None before the first.
        before: What it goes on from.
        seen: Its tokens and those of the prompt, if repeating them is penalized.
    """

    log_probability: float
    chosen: ChosenToken | None = None
    before: _Beam | None = None
    seen: SeenTokens | None = None

    def tokens(self) -> list[ChosenToken]:
        """All its tokens, in order."""
        tokens = []
        beam: _Beam | None = self
        while beam is not None and beam.chosen is not None:
            tokens.append(beam.chosen)
            beam = beam.before
        return tokens[::-1]


class _Candidate(NamedTuple):
    """A way for a hypothesis to go on: its log-probability then, the number of the hypothesis, and the token."""

    log_probability: float
    parent: int
    token_id: int


class _Ended(NamedTuple):
    score: float
    beam: _Beam


class BeamSearch:
    """One beam search; its tokens and scores are those of transformers' `generate` with `early_stopping=False`.

    Attributes:
        done: Whether there are no further steps.
    """

    def __init__(self, decoding: Decoding, end_ids: Collection[int], prompt: Sequence[int] = ()) -> None:
        """Before the first step.

        Args:
            decoding: How many beams, tokens and answers; its `stop_token_ids` end a hypothesis as `end_ids` do.
            end_ids: Tokens that end a text.
            prompt: What the decoder reads before its first token; see `Chooser`.
        """
        self._decoding = decoding
        self._end_ids = decoding.stop_token_ids.union(end_ids)
        # So many that as many as there are beams are left when every beam could end with every such token.
        self._candidates = max(2, 1 + len(self._end_ids)) * decoding.num_beams
        penalty = decoding.repetition_penalty
        self._live = [_Beam(0.0, seen=None if penalty == 1.0 else SeenTokens(prompt, penalty))]
        self._ended: list[_Ended] = []
        self._length = 0
        self.done = False

    def advance(self, logits: FloatArray) -> list[tuple[int, int]]:
        """Choose how the hypotheses go on.

        Args:
            logits: Of the next token of each hypothesis, in the order that the step before has given,
                `(hypotheses, vocab)`; in the first step of the one there is, `(1, vocab)`, and further rows are not
                looked at. Not changed.

        Returns:
            For each hypothesis of the next step, best first, the number of the one that it goes on from, and the token
            that it reads. There are `num_beams` of them, fewer only if the vocabulary is too small. Empty: it is done.

        Raises:
            ValueError: No token may follow any of them.
        """
        decoding = self._decoding
        totals = [log_total(logits[row]) for row in range(len(self._live))]
        length = self._length + 1
        full = length >= decoding.max_new_tokens
        going_on: list[tuple[_Candidate, _Beam]] = []
        ended = []
        for rank, candidate in enumerate(self._best(logits, totals)):
            ends = full or candidate.token_id in self._end_ids
            if ends and rank >= decoding.num_beams:
                continue  # it was followed only in case that too few go on
            if not ends and len(going_on) == decoding.num_beams:
                continue
            beam = self._extended(candidate, logits[candidate.parent], totals[candidate.parent])
            if ends:
                ended.append(_Ended(self._score(beam, length), beam))
            else:
                going_on.append((candidate, beam))
        if not going_on and not ended:
            raise ValueError("the model gives no token that may follow")
        self._length = length
        self._live = [beam for _, beam in going_on]
        self._ended = sorted([*self._ended, *ended], key=lambda each: -each.score)[: decoding.num_beams]
        self.done = not going_on or not self._may_improve()
        return [] if self.done else [(candidate.parent, candidate.token_id) for candidate, _ in going_on]

    @property
    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """The best `num_return_sequences` when it is done, best first."""
        return tuple(self._hypothesis(each) for each in self._ended[: self._decoding.num_return_sequences])

    def _best(self, logits: FloatArray, totals: Sequence[float]) -> Iterator[_Candidate]:
        """The likeliest ways to go on, of all hypotheses together."""
        log_probabilities, parents, token_ids = [], [], []
        for row, (beam, total) in enumerate(zip(self._live, totals, strict=True)):
            scores, base = logits[row], beam.log_probability - total
            if beam.seen is not None:
                # The penalty is for log-probabilities here, not for logits, as in transformers.
                scores, base = beam.seen.penalized(logits[row] - np.float32(total)), beam.log_probability
            ids = likeliest(scores, self._candidates)
            ids = ids[logits[row, ids] > LOWEST]
            log_probabilities.append(scores[ids].astype(np.float64) + base)
            parents.append(np.full(len(ids), row))
            token_ids.append(ids)
        all_together = np.concatenate(log_probabilities)
        best = np.argsort(-all_together, kind="stable")[: self._candidates]
        lists = (all_together[best], np.concatenate(parents)[best], np.concatenate(token_ids)[best])
        return map(_Candidate, *(each.tolist() for each in lists))

    def _extended(self, candidate: _Candidate, logits: FloatArray, total: float) -> _Beam:
        before = self._live[candidate.parent]
        count = self._decoding.logprobs
        token_id = candidate.token_id
        chosen = ChosenToken(token_id) if count is None else with_logprobs(token_id, logits, total, count)
        seen = None if before.seen is None else before.seen.and_also(token_id)
        return _Beam(candidate.log_probability, chosen, before, seen)

    def _may_improve(self) -> bool:
        """Whether a hypothesis that goes on may yet be among the best, judged as if it ended now, as transformers does.

        With a length penalty above 0 it might become so even if not judged so.
        """
        if len(self._ended) < self._decoding.num_beams:
            return True
        return self._score(self._live[0], self._length) > self._ended[-1].score

    def _score(self, beam: _Beam, length: int) -> float:
        return float(beam.log_probability / length**self._decoding.length_penalty)

    def _hypothesis(self, ended: _Ended) -> Hypothesis:
        tokens = ended.beam.tokens()
        ended_by = tokens.pop().token_id if tokens[-1].token_id in self._end_ids else None
        return Hypothesis(
            token_ids=[token.token_id for token in tokens],
            score=ended.score,
            ended_by=ended_by,
            tokens=None if self._decoding.logprobs is None else tuple(tokens),
        )
