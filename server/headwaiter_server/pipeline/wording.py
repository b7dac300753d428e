"""What a caller is told of what was generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from headwaiter_server.encoding import Encoding
from headwaiter_server.generation.beams import Hypothesis
from headwaiter_server.generation.choosing import ChosenToken
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.sequence import FinishReason, Generated
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.pipeline.core import Timings
from headwaiter_server.pipeline.generated import Alternative, AttentionReply, GeneratedText, WrittenToken


@dataclass(frozen=True, slots=True)
class Wording:
    """Words the answers to the texts of one request.

    Attributes:
        model: Who answers.
        sources: The texts.
        decodings: What is asked of each.
        arrived: When the call did, on the scheduler's clock.
        tokenize_seconds: How long it took to read the texts.
    """

    model: ServedModel
    sources: list[Encoding]
    decodings: list[Decoding]
    arrived: float
    tokenize_seconds: float

    def timings(self, results: Sequence[Generated]) -> Timings:
        """Where the time went."""
        return Timings.of(self.tokenize_seconds, results)

    def text(self, index: int, result: Generated, *, logprobs: bool) -> GeneratedText:
        """The answer for one text.

        Args:
            index: Which.
            result: What came of it.
            logprobs: Whether to say how likely its tokens were, if that was asked for.
        """
        ids, tokens = result.token_ids, result.tokens
        return GeneratedText(
            text=self.model.tokenizer.decode(ids) if result.text is None else result.text,
            token_ids=ids,
            finish_reason=result.finish_reason,
            source_tokens=len(self.sources[index]),
            logprobs=self.written(tokens) if logprobs and tokens is not None else (),
            score=result.score,
            alternatives=[self._alternative(index, each) for each in result.hypotheses[1:]],
            attention=None if result.attention is None else self._attention(index, ids, result.attention),
            stopped_by=result.stopped_by,
            seed=self.decodings[index].seed,
            # What others had asked for may have come before.
            token_seconds=[max(0.0, each - self.arrived) for each in result.token_times],
        )

    def written(self, tokens: Sequence[ChosenToken]) -> list[WrittenToken]:
        """Tokens with their log-probabilities."""
        written = self.model.tokenizer.written
        likeliest = [[token_id for token_id, _ in each.top] for each in tokens]
        return [
            WrittenToken(token, cast("float", each.logprob), ids, written(ids), [logprob for _, logprob in each.top])
            for token, each, ids in zip(written([each.token_id for each in tokens]), tokens, likeliest, strict=True)
        ]

    def _alternative(self, index: int, hypothesis: Hypothesis) -> Alternative:
        ids, ended_by = hypothesis.token_ids, hypothesis.ended_by
        if ended_by is None:
            reason = FinishReason.LENGTH
        else:
            stopped = ended_by in self.decodings[index].stop_token_ids
            reason = FinishReason.STOP if stopped else FinishReason.END_OF_SEQUENCE
        return Alternative(self.model.tokenizer.decode(ids), ids, hypothesis.score, reason)

    def _attention(self, index: int, token_ids: list[int], weights: FloatArray) -> AttentionReply:
        written = self.model.tokenizer.written
        return AttentionReply(written(self.sources[index].ids), written(token_ids), weights)
