"""Models that generate, asked in tensors: whole, or piece by piece on streams."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import numpy as np

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.lifecycle.signature import ALTERNATIVES, FINISH_REASON, LOGPROBS, SCORE, TEXT, TOKEN_IDS
from headwaiter_server.model.contract import Array
from headwaiter_server.pipeline import GenerationPiece, GenerationRequest, Timings, WrittenToken
from headwaiter_server.rpc.open_inference.elements import object_array
from headwaiter_server.rpc.open_inference.outputs import Outcome
from headwaiter_server.rpc.open_inference.parameters import path
from headwaiter_server.rpc.open_inference.text_call import TextCall


async def generate(call: TextCall) -> Outcome:
    """Generate from each text; see `TextTask`."""
    request = GenerationRequest(call.model.name, call.model.version, call.texts[TEXT], _decoding(call))
    if call.tell is None:
        reply = await call.pipeline.generate(call.permit, call.terms, request)
        whole = [
            GenerationPiece(index, text.text, text.token_ids, [], text.logprobs, text)
            for index, text in enumerate(reply.texts)
        ]
        values = await call.pipeline.read(
            call.terms.spending, lambda: _values(call, whole), len(whole), reply.characters
        )
        return Outcome(reply.model, values, reply.timings)

    tell = call.tell
    last: dict[str, Array] = {}

    async def take(pieces: Sequence[GenerationPiece], timings: Timings | None) -> None:
        values = _values(call, pieces)
        if timings is None:
            await tell(values)
        else:
            last.update(values)

    timings = await call.pipeline.generate_stream(call.permit, call.terms, request, take)
    return Outcome(call.model, last, timings)


def _decoding(call: TextCall) -> Decoding:
    """How tokens are to be chosen.

    Raises:
        InvalidRequestError: An option is of another kind, not known, or without effect.
    """
    options = call.options
    logprobs = options.whole("logprobs")
    top_p, repetition_penalty, length_penalty = map(options.number, ("top_p", "repetition_penalty", "length_penalty"))
    decoding = Decoding(
        max_new_tokens=options.whole("max_new_tokens") or 0,
        temperature=options.number("temperature") or 0.0,
        top_k=options.whole("top_k") or 0,
        top_p=1.0 if top_p is None else top_p,
        repetition_penalty=1.0 if repetition_penalty is None else repetition_penalty,
        seed=options.whole("seed"),
        num_beams=options.whole("num_beams") or 1,
        num_return_sequences=options.whole("num_return_sequences") or 1,
        length_penalty=1.0 if length_penalty is None else length_penalty,
        stop=options.strings("stop"),
        stop_token_ids=options.numbers("stop_token_ids"),
        logprobs=0 if logprobs is None and LOGPROBS in call.wanted else logprobs,
    )
    options.end()
    # Told in outputs that do not come unasked.
    for option, output, given in (
        ("logprobs", LOGPROBS, logprobs is not None),
        ("num_return_sequences", ALTERNATIVES, decoding.num_return_sequences > 1),
    ):
        if given and output not in call.wanted:
            raise InvalidRequestError(path(option), f"takes output {output!r}, which the request does not name")
    if SCORE in call.wanted and decoding.num_beams == 1:
        raise InvalidRequestError(call.wanted[SCORE], "is told of beam search only: it takes num_beams above 1")
    return decoding


def _values(call: TextCall, pieces: Sequence[GenerationPiece]) -> dict[str, Array]:
    """The outputs that are wanted; rows without a piece have nothing new in them."""
    rows = len(call.texts[TEXT])
    values: dict[str, Array] = {}
    for name in call.wanted:
        if name == SCORE:
            scores = np.full((rows, 1), np.nan, np.float32)
            for piece in pieces:
                scores[piece.index] = _score(piece)
            values[name] = scores
        else:
            nothing, write = _WRITTEN[name]
            elements = [nothing] * rows
            for piece in pieces:
                elements[piece.index] = write(piece)
            values[name] = object_array(elements, (rows, 1))
    return values


def _score(piece: GenerationPiece) -> float:
    return math.nan if piece.finished is None or piece.finished.score is None else piece.finished.score


def _text(piece: GenerationPiece) -> bytes:
    return piece.text.encode()


def _token_ids(piece: GenerationPiece) -> bytes:
    return _json(piece.token_ids)


def _logprobs(piece: GenerationPiece) -> bytes:
    return _json([_logprob(each) for each in piece.logprobs])


def _logprob(token: WrittenToken) -> dict[str, object]:
    likeliest = zip(token.top_ids, token.top_tokens, token.top_logprobs, strict=True)
    return {
        "token": token.token,
        "logprob": token.logprob,
        "top": [{"token_id": number, "token": text, "logprob": logprob} for number, text, logprob in likeliest],
    }


def _finish_reason(piece: GenerationPiece) -> bytes:
    return b"" if piece.finished is None else piece.finished.finish_reason.name.lower().encode()


def _alternatives(piece: GenerationPiece) -> bytes:
    found = [] if piece.finished is None else piece.finished.alternatives
    return _json(
        [
            {
                "text": each.text,
                "token_ids": each.token_ids,
                "score": each.score,
                "finish_reason": each.finish_reason.name.lower(),
            }
            for each in found
        ]
    )


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


# Of each output of BYTES: what stands for nothing new, and how a piece is written.
_WRITTEN: dict[str, tuple[bytes, Callable[[GenerationPiece], bytes]]] = {
    TEXT: (b"", _text),
    TOKEN_IDS: (b"[]", _token_ids),
    LOGPROBS: (b"[]", _logprobs),
    FINISH_REASON: (b"", _finish_reason),
    ALTERNATIVES: (b"[]", _alternatives),
}
