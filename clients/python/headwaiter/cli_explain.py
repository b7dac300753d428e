"""The command `headwaiter explain`: what happened to one text."""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from headwaiter.cli_options import endpoint_options, json_line, json_option, model_options, truncate_option
from headwaiter.client import Client
from headwaiter.errors import InvalidRequestError
from headwaiter.results import Task
from headwaiter.timeline import ASCII_BAR, BAR, duration, timeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from headwaiter.cli_options import Endpoint
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
    """

    text: str
    model: ModelInfo
    tokens: tuple[str, ...] | None
    read_tokens: int
    seconds: tuple[float, ...]
    timings: tuple[Timings, ...]
    answer: str

    @property
    def stages(self) -> Stages:
        """The median of each stage."""
        each = [Stages.of(*pair) for pair in zip(self.seconds, self.timings, strict=True)]
        fields = [field.name for field in dataclasses.fields(Stages)]
        return Stages(**{name: statistics.median(getattr(stages, name) for stages in each) for name in fields})


@click.command()
@click.argument("text")
@click.option("--query", help="What the text is to answer, for models that rerank.")
@click.option("--second-text", help="The second text of a pair, for models that classify pairs.")
@click.option("--prompt", metavar="NAME", help='Prompt of a model that embeds; "" for none.')
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Call so many times, one after the other, and show medians.",
)
@model_options
@truncate_option
@json_option
@endpoint_options
def explain(
    text: str,
    repeat: int,
    endpoint: Endpoint,
    *,
    as_json: bool,
    model: str,
    version: int,
    **arguments: Any,  # noqa: ANN401 - what tasks take
) -> None:
    """Shows what happens to TEXT: its tokens, where the time of a call goes, and what shared its run.

    Network and gRPC is what the client measured without what the server says it took. The text is sent to the model
    whatever its task is; a model that reranks needs --query. One more call comes first, which is not counted.
    """
    with endpoint.open(Client) as client:
        info = client.model(model, version=version)
        call = _call(client, info, text, arguments)
        explanation = _explain(client, info, text, call, repeat, arguments)
    lines = [json_line(_as_dict(explanation))] if as_json else _lines(explanation)
    click.echo("\n".join(lines))


def _call(client: Client, info: ModelInfo, text: str, arguments: dict[str, Any]) -> Callable[[], Any]:
    """What calls the model's task with the text."""
    given = {name for name in ("query", "second_text", "prompt") if arguments[name] is not None}
    suits = {Task.RERANK: "query", Task.CLASSIFY: "second_text", Task.EMBED: "prompt"}
    if wrong := given - {suits.get(info.task)}:
        option = "--" + min(wrong).replace("_", "-")
        raise click.UsageError(f"{option} means nothing to {info.name!r}, whose task is to {info.task}")
    who: dict[str, Any] = {"model": info.name, "version": info.version}
    cut: dict[str, Any] = {**who, "truncate": arguments["truncate"]}
    match info.task:
        case Task.GENERATE:
            if arguments["truncate"]:
                raise click.UsageError(f"--truncate means nothing to {info.name!r}, whose task is to generate")
            return lambda: client.generate(text, **who)
        case Task.EMBED:
            return lambda: client.embed(text, prompt=arguments["prompt"], **cut)
        case Task.CLASSIFY:
            second_texts = () if arguments["second_text"] is None else arguments["second_text"]
            return lambda: client.classify(text, second_texts, **cut)
        case Task.TAG:
            return lambda: client.tag(text, **cut)
        case Task.RERANK:
            if arguments["query"] is None:
                raise click.UsageError(f"{info.name!r} is a model to rerank: say with --query what TEXT is to answer")
            return lambda: client.rerank(arguments["query"], text, **cut)
        case _:
            raise click.UsageError(f"{info.name!r} is a model to {info.task}, which takes no text")


def _explain(
    client: Client, info: ModelInfo, text: str, call: Callable[[], Any], repeat: int, arguments: dict[str, Any]
) -> Explanation:
    # The first call is not counted: it loads what the client decodes answers with.
    call()
    seconds, timings = [], []
    for _ in range(repeat):
        started = time.perf_counter()
        reply = call()
        seconds.append(time.perf_counter() - started)
        timings.append(reply.timings)
    read = _prompt(info, arguments["prompt"]) + text
    try:
        tokens = client.tokenize(read, model=info.name, version=info.version).tokenizations[0].tokens
    except InvalidRequestError:
        tokens = None  # it was cut for the model, and is longer than can be listed
    read_tokens = reply.generations[0].source_tokens if info.task is Task.GENERATE else reply.reading.tokens[0]
    return Explanation(text, info, tokens, read_tokens, tuple(seconds), tuple(timings), _answer(info.task, text, reply))


def _prompt(info: ModelInfo, name: str | None) -> str:
    if info.embedding is None:
        return ""
    return info.embedding.prompts.get(info.embedding.default_prompt if name is None else name, "")


def _answer(task: Task, text: str, reply: Any) -> str:  # noqa: ANN401 - a reply of any task
    if task is Task.GENERATE:
        generation = reply.generations[0]
        return f"{generation.text!r}, {_counted(len(generation.token_ids), 'token')}"
    if task is Task.EMBED:
        return f"a vector of {reply.dimension} numbers"
    if task is Task.CLASSIFY:
        score, label = max(zip(reply.classifications[0].scores, reply.labels, strict=True))
        return f"{label} ({score:.4f})"
    if task is Task.TAG:
        spans = [f"{text[span.start : span.end]}={span.label}" for span in reply.taggings[0].spans]
        return ", ".join(spans) or "no spans"
    return f"score {reply.ranking[0].score:.4f}"


def _lines(it: Explanation) -> list[str]:
    info, seconds = it.model, it.seconds
    lines = [f"{info.name} version {info.version} ({info.task}, {info.variant})", ""]
    lines += [f"tokens  {it.read_tokens}: {_shown(it)}", f"answer  {it.answer}", ""]
    stages = [(_NAMES[name], value) for name, value in dataclasses.asdict(it.stages).items()]
    whole = "total" if len(seconds) == 1 else f"median of {len(seconds)} calls"
    lines += timeline(stages, (whole, statistics.median(seconds)), _bar())
    if len(seconds) > 1:
        lines.append(f"fastest {duration(min(seconds))}, slowest {duration(max(seconds))}")
    return [*lines, "", _batches(it.timings)]


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
        return f"batch {timings[0].batch_id}: {_counted(sizes[0], 'text')}{alone}, {_counted(tokens[0], 'token')}"
    return f"batches of {_range(sizes, 'text')}, {_range(tokens, 'token')}; the last was batch {timings[-1].batch_id}"


def _range(numbers: list[int], noun: str) -> str:
    """The first and the last of sorted numbers, and the one between."""
    if numbers[0] == numbers[-1]:
        return _counted(numbers[0], noun)
    return f"{numbers[0]} to {numbers[-1]} {noun}s (median {statistics.median(numbers):g})"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _bar() -> str:
    try:
        BAR.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return ASCII_BAR
    return BAR


def _as_dict(it: Explanation) -> dict[str, object]:
    return {
        "input": it.text,
        "model": it.model.name,
        "version": it.model.version,
        "variant": it.model.variant,
        "task": it.model.task,
        "tokens": it.tokens,
        "read_tokens": it.read_tokens,
        "answer": it.answer,
        "calls": len(it.seconds),
        "median_seconds": {"total": statistics.median(it.seconds), **dataclasses.asdict(it.stages)},
        "each": [
            {"client_seconds": seconds, **dataclasses.asdict(timings)}
            for seconds, timings in zip(it.seconds, it.timings, strict=True)
        ],
    }
