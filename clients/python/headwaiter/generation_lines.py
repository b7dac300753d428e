"""What was generated, as lines for a person or a program."""

from __future__ import annotations

import dataclasses
import math
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from headwaiter.columns import aligned, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headwaiter.results import Attention, GenerateReply, GenerationPiece, GenerationResult, Hypothesis, TokenLogprob

# What a JSON object leaves out where it is empty: what was not asked for, or does not apply.
_OPTIONAL: Final = ("logprobs", "score", "alternatives", "attention", "stopped_by", "seed", "token_seconds")
# Seconds are told as 32-bit floats, whose further digits are noise.
_SECONDS_DIGITS: Final = 6


def result_lines(generation: GenerationResult, *, candidates: bool) -> Iterator[str]:
    """The text, or the candidates of beam search with their scores, best first."""
    if not candidates:
        yield generation.text
        return
    ranked: tuple[GenerationResult | Hypothesis, ...] = (generation, *generation.alternatives)
    for each in ranked:
        yield f"{each.score or 0.0:.4f}\t{each.text}"


def logprob_lines(generation: GenerationResult) -> Iterator[str]:
    """A line for each token: itself, its probability and log-probability, and the likeliest at its place."""
    rows = [
        [_name(token_id, each.token), _percent(each.logprob), f"{each.logprob:9.4f}"]
        + [f"{_name(top.token_id, top.token)} {_percent(top.logprob).lstrip()}" for top in each.top]
        for token_id, each in zip(generation.token_ids, generation.logprobs, strict=False)
    ]
    columns = [aligned(column) for column in zip_longest(*rows, fillvalue="")]
    for row in zip(*columns, strict=True):
        yield f"  {'  '.join(row)}".rstrip()


def _name(token_id: int, token: str) -> str:
    return shown(token) or str(token_id)


def _percent(logprob: float) -> str:
    return f"{math.exp(logprob) * 100:5.1f} %"


def timings_line(reply: GenerateReply) -> str:
    """Where the time of a call went."""
    timings = reply.timings
    count = len(reply.generations)
    firsts = [each.token_seconds[0] for each in reply.generations if each.token_seconds]
    first = f"first token after {min(firsts) * 1e3:.2f} ms; " if firsts else ""
    return (
        f"{count} text{'' if count == 1 else 's'} in {timings.total_seconds * 1e3:.2f} ms:"
        f" tokenize {timings.tokenize_seconds * 1e3:.2f}, queue {timings.queue_seconds * 1e3:.2f},"
        f" inference {timings.inference_seconds * 1e3:.2f}; {first}batch {timings.batch_id}"
        f" of {timings.batch_size} rows, {timings.batch_tokens} tokens"
    )


def result_value(generation: GenerationResult) -> dict[str, object]:
    """For JSON: everything that there is."""
    value: dict[str, Any] = {
        field.name: getattr(generation, field.name) for field in dataclasses.fields(generation)
    } | {
        "logprobs": _logprob_values(generation.logprobs),
        "alternatives": [dataclasses.asdict(each) for each in generation.alternatives],
        "token_seconds": _rounded(generation.token_seconds),
    }
    if generation.attention is not None:
        value["attention"] = _attention_value(generation.attention)
    return {name: each for name, each in value.items() if name not in _OPTIONAL or each not in (None, "", [])}


def piece_value(piece: GenerationPiece) -> dict[str, object]:
    """For JSON: a piece, and with the last one of a text what `result_value` says of the whole."""
    value: dict[str, object] = {
        "text": piece.text,
        "token_ids": piece.token_ids,
        "token_seconds": _rounded(piece.token_seconds),
    }
    if piece.logprobs:
        value["logprobs"] = _logprob_values(piece.logprobs)
    if piece.finished is not None:
        value["finished"] = result_value(piece.finished)
    return value


def _rounded(seconds: tuple[float, ...]) -> list[float]:
    return [round(each, _SECONDS_DIGITS) for each in seconds]


def _logprob_values(logprobs: tuple[TokenLogprob, ...]) -> list[dict[str, object]]:
    return [dataclasses.asdict(each) for each in logprobs]


def _attention_value(attention: Attention) -> dict[str, object]:
    value = {field.name: getattr(attention, field.name) for field in dataclasses.fields(attention)}
    return value | {"weights": attention.weights.tolist()}
