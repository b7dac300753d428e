"""What happened to one text, as values, lines for a person and JSON for a program."""

from __future__ import annotations

import dataclasses
import statistics
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from headwaiter.timeline import ASCII_BAR, BAR, duration, timeline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headwaiter.results import ModelInfo, Timings

# Of a text, how many tokens are shown to a person.
_MOST_TOKENS: Final = 40


@dataclass(frozen=True, slots=True)
class Stages:
    """Where the time of a call went, in seconds, from first to last.

    Attributes:
        network: Between the client and the server's first sight of the call, and back: gRPC on both sides.
        tokenize: Text to tokens.
        queue: Waiting for its first run.
        inference: In runs.
        other: In the server, in none of these: admission, parsing, taking turns on the event loop, writing.
    """

    network: float
    tokenize: float
    queue: float
    inference: float
    other: float

    @classmethod
    def of(cls, seconds: float, timings: Timings) -> Stages:
        """Take apart what a call took.

        Args:
            seconds: As the client measured it.
            timings: What the server said.
        """
        known = timings.tokenize_seconds + timings.queue_seconds + timings.inference_seconds
        return cls(
            network=max(0.0, seconds - timings.total_seconds),
            tokenize=timings.tokenize_seconds,
            queue=timings.queue_seconds,
            inference=timings.inference_seconds,
            other=max(0.0, timings.total_seconds - known),
        )


_NAMES: Final = {
    "network": "network and gRPC",
    "tokenize": "tokenizing",
    "queue": "waiting in the queue",
    "inference": "inference",
    "other": "rest of the server",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What happened to a text.

    Attributes:
        text: The text.
        model: Who answered.
        tokens: What the model read of it, as its vocabulary writes it; None of a text too long to be shown.
        read_tokens: How many tokens the model read: with a prompt, a query or a second text more.
        seconds: What each call took, as the client measured it.
        timings: What the server said of each.
        answer: What came of it, in few words.
        token_seconds: When each generated token was there, of the last call; empty where nothing is generated.
    """

    text: str
    model: ModelInfo
    tokens: tuple[str, ...] | None
    read_tokens: int
    seconds: tuple[float, ...]
    timings: tuple[Timings, ...]
    answer: str
    token_seconds: tuple[float, ...] = ()

    @property
    def seconds_between_tokens(self) -> float | None:
        """From one generated token to the next, in the mean; None where there are not two at different times."""
        seconds = self.token_seconds
        return (seconds[-1] - seconds[0]) / (len(seconds) - 1) if seconds and seconds[-1] > seconds[0] else None

    @property
    def stages(self) -> Stages:
        """The median of each stage."""
        each = [Stages.of(*pair) for pair in zip(self.seconds, self.timings, strict=True)]
        fields = [field.name for field in dataclasses.fields(Stages)]
        return Stages(**{name: statistics.median(getattr(stages, name) for stages in each) for name in fields})


def explanation_lines(it: Explanation) -> list[str]:
    """For a person."""
    info, seconds = it.model, it.seconds
    lines = [f"{info.name} version {info.version} ({info.task}, {info.variant})", ""]
    lines += [f"tokens  {it.read_tokens}: {_shown(it)}", f"answer  {it.answer}", ""]
    stages = [(_NAMES[name], value) for name, value in dataclasses.asdict(it.stages).items()]
    whole = "total" if len(seconds) == 1 else f"median of {len(seconds)} calls"
    lines += timeline(stages, (whole, statistics.median(seconds)), BAR if printable(BAR) else ASCII_BAR)
    if len(seconds) > 1:
        lines.append(f"fastest {duration(min(seconds))}, slowest {duration(max(seconds))}")
    return [*lines, *_pace(it), "", _batches(it.timings)]


def _pace(it: Explanation) -> Iterator[str]:
    """When generated tokens came."""
    if it.token_seconds:
        of = "" if len(it.seconds) == 1 else " of the last call"
        between = it.seconds_between_tokens
        then = "" if between is None else f", then one each {duration(between)} ({1 / between:.0f}/s)"
        yield f"first token{of} after {duration(it.token_seconds[0])} in the server{then}"


def _shown(it: Explanation) -> str:
    if it.tokens is None:
        return "the text is too long to list them"
    shown = " ".join(it.tokens[:_MOST_TOKENS])
    more = len(it.tokens) - _MOST_TOKENS
    if more > 0:
        shown += f" ... and {more} more"
    # A pair, or a text that was cut.
    return shown if len(it.tokens) == it.read_tokens else f"{shown} (the text itself has {len(it.tokens)})"


def _batches(timings: tuple[Timings, ...]) -> str:
    """What the text shared its runs with."""
    sizes = sorted(each.batch_size for each in timings)
    tokens = sorted(each.batch_tokens for each in timings)
    if len(timings) == 1:
        alone = ", this one alone" if sizes == [1] else ""
        return f"batch {timings[0].batch_id}: {counted(sizes[0], 'text')}{alone}, {counted(tokens[0], 'token')}"
    return f"batches of {_range(sizes, 'text')}, {_range(tokens, 'token')}; the last was batch {timings[-1].batch_id}"


def _range(numbers: list[int], noun: str) -> str:
    """The first and the last of sorted numbers, and the one between."""
    if numbers[0] == numbers[-1]:
        return counted(numbers[0], noun)
    return f"{numbers[0]} to {numbers[-1]} {noun}s (median {statistics.median(numbers):g})"


def counted(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def printable(characters: str) -> bool:
    """Whether the standard output can show these characters."""
    try:
        characters.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def explanation_value(it: Explanation) -> dict[str, object]:
    """For JSON."""
    return {
        "input": it.text,
        "model": it.model.name,
        "version": it.model.version,
        "variant": it.model.variant,
        "task": it.model.task,
        "tokens": it.tokens,
        "read_tokens": it.read_tokens,
        "answer": it.answer,
        **_pace_value(it),
        "calls": len(it.seconds),
        "median_seconds": {"total": statistics.median(it.seconds), **dataclasses.asdict(it.stages)},
        "each": [
            {"client_seconds": seconds, **dataclasses.asdict(timings)}
            for seconds, timings in zip(it.seconds, it.timings, strict=True)
        ],
    }


def _pace_value(it: Explanation) -> dict[str, object]:
    if not it.token_seconds:
        return {}
    return {"first_token_seconds": it.token_seconds[0], "seconds_between_tokens": it.seconds_between_tokens}
