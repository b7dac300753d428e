"""`generate` and `generate_stream`: arguments to requests, replies to results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headwaiter_proto.v1 import inference_pb2

from headwaiter.codec.arguments import MAX_UINT64, as_number, as_real, as_texts, as_unicode, as_version
from headwaiter.codec.timings import timings_of
from headwaiter.errors import InternalServerError
from headwaiter.results import (
    Attention,
    FinishReason,
    GenerateReply,
    GenerationPiece,
    GenerationResult,
    Hypothesis,
    LikelyToken,
    TokenLogprob,
)
from headwaiter.vectors import unpack_array

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FINISH_REASONS = {
    inference_pb2.FINISH_REASON_END_OF_SEQUENCE: FinishReason.END_OF_SEQUENCE,
    inference_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    inference_pb2.FINISH_REASON_STOP: FinishReason.STOP,
}


def generate_request(  # noqa: PLR0913 - one for each option
    texts: str | Sequence[str],
    *,
    model: str,
    version: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float | None,
    repetition_penalty: float | None,
    seed: int | None,
    num_beams: int,
    num_return_sequences: int,
    length_penalty: float | None,
    stop: str | Sequence[str],
    stop_token_ids: Sequence[int],
    logprobs: int | None,
    attention: bool,
) -> inference_pb2.GenerateRequest:
    """The request for one `generate` or `generate_stream` call.

    Raises:
        InvalidRequestError: A value cannot be written to the wire. What options mean, and the model's own limits, are
            the server's to check.
    """
    request = inference_pb2.GenerateRequest(
        model=as_unicode("model", model),
        version=as_version(version),
        texts=as_texts(texts),
        max_new_tokens=as_number("max_new_tokens", max_new_tokens),
        temperature=as_real("temperature", temperature),
        top_k=as_number("top_k", top_k),
        num_beams=as_number("num_beams", num_beams),
        num_return_sequences=as_number("num_return_sequences", num_return_sequences),
        stop=as_texts(stop, "stop"),
        stop_token_ids=[as_number(f"stop_token_ids[{index}]", each) for index, each in enumerate(stop_token_ids)],
        attention=attention,
    )
    # To the wire, these not being there is another thing than their zeros.
    if top_p is not None:
        request.top_p = as_real("top_p", top_p)
    if repetition_penalty is not None:
        request.repetition_penalty = as_real("repetition_penalty", repetition_penalty)
    if seed is not None:
        request.seed = as_number("seed", seed, MAX_UINT64)
    if length_penalty is not None:
        request.length_penalty = as_real("length_penalty", length_penalty)
    if logprobs is not None:
        request.logprobs = as_number("logprobs", logprobs)
    return request


def generate_reply(response: inference_pb2.GenerateResponse) -> GenerateReply:
    """The result of one `generate` call."""
    return GenerateReply(
        model=response.model,
        version=response.version,
        variant=response.variant,
        generations=tuple(_generation(each, _Told.by(each)) for each in response.generations),
        timings=timings_of(response.timings),
    )


@dataclass(slots=True)
class _Told:
    """What pieces tell of a text, or the whole of it at once."""

    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    token_seconds: list[float] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @classmethod
    def by(cls, message: inference_pb2.Generation | inference_pb2.GenerateStreamResponse) -> _Told:
        logprobs = map(_token_logprob, message.logprobs)
        return cls([message.text], [*message.token_ids], [*message.token_seconds], [*logprobs])

    def add(self, more: _Told) -> None:
        self.text += more.text
        self.token_ids += more.token_ids
        self.token_seconds += more.token_seconds
        self.logprobs += more.logprobs


class Pieces:
    """Makes pieces of the messages of one `generate_stream`, and the whole of the pieces.

    Args:
        texts: How many texts it is of.
    """

    def __init__(self, texts: int) -> None:
        self._told = [_Told() for _ in range(texts)]
        self._finished: list[GenerationResult | None] = [None] * texts
        self._who = ("", 0, "")
        self._timings = inference_pb2.Timings()

    def read(self, response: inference_pb2.GenerateStreamResponse) -> GenerationPiece | None:
        """The piece in a message; None if there is none in it.

        Raises:
            InternalServerError: It is of a text that the call did not have, or that had ended.
        """
        if response.model:
            self._who = (response.model, response.version, response.variant)
        if response.HasField("timings"):
            self._timings = response.timings
        ends = response.HasField("finished")
        if not (ends or response.text or response.token_ids):
            return None
        index = response.index
        if index >= len(self._told) or self._finished[index] is not None:
            raise InternalServerError(f"the stream has a piece of text {index}, which is none that was to go on")
        told = _Told.by(response)
        self._told[index].add(told)
        if ends:
            self._finished[index] = _generation(response.finished, self._told[index])
        return GenerationPiece(
            index=index,
            text=response.text,
            token_ids=tuple(told.token_ids),
            token_seconds=tuple(told.token_seconds),
            logprobs=tuple(told.logprobs),
            finished=self._finished[index],
        )

    def reply(self) -> GenerateReply:
        """What `generate` would have returned.

        Raises:
            InternalServerError: Not every text has its end.
        """
        generations = tuple(each for each in self._finished if each is not None)
        if len(generations) < len(self._finished):
            index = self._finished.index(None)
            raise InternalServerError(f"the stream ended before text {index} of {len(self._finished)} did")
        model, version, variant = self._who
        return GenerateReply(model, version, variant, generations, timings_of(self._timings))


def _generation(generation: inference_pb2.Generation, told: _Told) -> GenerationResult:
    return GenerationResult(
        text="".join(told.text),
        token_ids=tuple(told.token_ids),
        finish_reason=_finish_reason(generation.finish_reason),
        source_tokens=generation.source_tokens,
        logprobs=tuple(told.logprobs),
        score=generation.score if generation.HasField("score") else None,
        alternatives=tuple(_alternatives(generation.alternatives)),
        attention=_attention(generation.attention) if generation.HasField("attention") else None,
        stopped_by=generation.stopped_by,
        seed=generation.seed if generation.HasField("seed") else None,
        token_seconds=tuple(told.token_seconds),
    )


def _token_logprob(each: inference_pb2.TokenLogprob) -> TokenLogprob:
    # A server may be too old to tell what ids stand for.
    names = each.top_tokens or [""] * len(each.top_token_ids)
    top = zip(each.top_token_ids, names, each.top_logprobs, strict=True)
    return TokenLogprob(each.token, each.logprob, tuple(LikelyToken(*likely) for likely in top))


def _finish_reason(reason: inference_pb2.FinishReason) -> FinishReason:
    return _FINISH_REASONS.get(reason, FinishReason.UNKNOWN)


def _alternatives(hypotheses: Iterable[inference_pb2.Hypothesis]) -> Iterable[Hypothesis]:
    for each in hypotheses:
        yield Hypothesis(each.text, tuple(each.token_ids), each.score, _finish_reason(each.finish_reason))


def _attention(attention: inference_pb2.Attention) -> Attention:
    shape = (len(attention.tokens), attention.layers, attention.heads, len(attention.source_tokens))
    return Attention(
        layers=attention.layers,
        heads=attention.heads,
        source_tokens=tuple(attention.source_tokens),
        tokens=tuple(attention.tokens),
        weights=unpack_array(attention.weights, shape),
    )
