"""The options that `run` and `capacity` share, and the plan that they make together."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

import click
from headwaiter.cli_options import Access, read_token, security_options, target_option

from headwaiter_load import discovery, tensors, typed, words
from headwaiter_load.endpoint import Endpoint
from headwaiter_load.errors import BadInputError
from headwaiter_load.metrics_page import MetricsPage
from headwaiter_load.replay import TracedCall
from headwaiter_load.requests import Requests, groups, made_groups, read_texts
from headwaiter_load.tensors import Filling

_PATH = click.Path(exists=True, dir_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False)
_POSITIVE = click.FloatRange(min=0, min_open=True)

_OPTIONS = (
    target_option,
    *security_options,
    click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Metadata of every call; repeatable."),
    click.option("--connections", type=click.IntRange(1, 256), default=1, help="Connections of each process.  [1]"),
    click.option(
        "--protocol",
        type=click.Choice(["headwaiter", "oip"]),
        default="headwaiter",
        show_default=True,
        help="headwaiter.v1, or the Open Inference Protocol of other servers.",
    ),
    click.option("--model", default="", metavar="NAME", help="Model; may be left out when there is only one."),
    click.option("--version", default="", metavar="N", help="Version of the model; by default the one that serves."),
    click.option(
        "--stream",
        is_flag=True,
        help="Send messages of one stream for each connection, not calls; of generate, have each call answered in"
        " pieces.",
    ),
    click.option("--texts-per-call", type=click.IntRange(1, 100_000), metavar="N", help="Texts, or rows.  [1]"),
    click.option(
        "--texts", type=_PATH, help="File with a text on each line; by default they are made of common words."
    ),
    click.option(
        "--words",
        metavar="LENGTHS",
        help="Words of a text that is made: fixed:N, uniform:LOW-HIGH, lognormal:MEDIAN,SIGMA."
        f"  [{words.DEFAULT_LENGTHS}]",
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, help="Of everything random.  [0]"),
    click.option("--task", type=click.Choice(typed.TASKS), help="What to ask for; by default what the model does."),
    click.option("--truncate", is_flag=True, help="Let the server cut texts over the model's limit."),
    click.option("--query", metavar="TEXT", help="What rerank calls look for."),
    click.option("--max-new-tokens", type=click.IntRange(min=1), metavar="N", help="Of generate calls."),
    click.option(
        "--shape",
        "shapes",
        multiple=True,
        metavar="INPUT:N,N,...",
        help="Shape of an input of --protocol oip, where the server leaves sizes open; -1 for texts per call.",
    ),
    click.option("--integers", metavar="LOW:HIGH", help="Whole numbers that --protocol oip sends at random.  [1:1]"),
    click.option("--input", "inputs", type=_PATH, help="JSON file with the tensors that --protocol oip sends."),
    click.option("--deadline-seconds", type=_POSITIVE, help="Deadline of each call, from when it is due.  [none]"),
    click.option("--processes", type=click.IntRange(1, 64), default=1, help="Processes that send.  [1]"),
    click.option(
        "--most-outstanding",
        type=click.IntRange(min=1),
        default=20_000,
        show_default=True,
        help="Calls that one process keeps outstanding; more are counted as NOT_SENT.",
    ),
    click.option("--metrics-url", metavar="URL", help="The server's /metrics, for its own view of the same time."),
    click.option("--metrics-ca-file", type=_FILE, help="Authorities to trust there (PEM).  [as --ca-file]"),
    click.option("--metrics-token-file", type=_FILE, help="Token of the server's metrics."),
    click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the result as JSON."),
    click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a report as one HTML page."),
    click.option("--quiet", is_flag=True, help="Show no progress."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared(Access):
    """What these options say."""

    metadata: tuple[str, ...]
    connections: int
    protocol: Literal["headwaiter", "oip"]
    model: str
    version: str
    stream: bool
    texts_per_call: int | None
    texts: Path | None
    words: str | None
    seed: int
    task: str | None
    truncate: bool
    query: str | None
    max_new_tokens: int | None
    shapes: tuple[str, ...]
    integers: str | None
    inputs: Path | None
    deadline_seconds: float | None
    processes: int
    most_outstanding: int
    metrics_url: str | None
    metrics_ca_file: str | None
    metrics_token_file: str | None
    output: Path | None
    html: Path | None
    quiet: bool

    def endpoint(self) -> Endpoint:
        """Where the server is, checked.

        Raises:
            BadInputError: The options do not go together, or a file cannot be read.
        """
        try:
            endpoint = Endpoint(
                self.target,
                tls=self.tls_settings(),
                token=self.token(),
                allow_plaintext_token=self.allow_plaintext_token,
                metadata=tuple(_pair(each) for each in self.metadata),
                connections=self.connections,
            )
        except (ValueError, OSError) as error:
            raise BadInputError(str(error)) from error
        endpoint.connection()
        return endpoint

    def metrics_page(self) -> MetricsPage | None:
        """The server's metrics; None to leave them alone.

        Raises:
            BadInputError: The options do not go together, or a file cannot be read.
        """
        if self.metrics_url is None:
            _refuse("goes with --metrics-url", self._metrics_files())
            return None
        try:
            token = read_token(self.metrics_token_file) if self.metrics_token_file else None
            return MetricsPage(
                self.metrics_url,
                self.metrics_ca_file or self.ca_file,
                token,
                allow_plaintext_token=self.allow_plaintext_token,
            )
        except (ValueError, OSError) as error:
            raise BadInputError(str(error)) from error

    def _metrics_files(self) -> dict[str, str | None]:
        return {"--metrics-ca-file": self.metrics_ca_file, "--metrics-token-file": self.metrics_token_file}

    def check(self) -> None:
        """Refuses options that contradict each other.

        Raises:
            BadInputError: Some do, and which.
        """
        oip = self.protocol == "oip"
        _refuse(
            "goes with --protocol headwaiter only" if oip else "goes with --protocol oip only",
            {"--task": self.task, "--truncate": self.truncate, "--query": self.query}
            | {"--max-new-tokens": self.max_new_tokens}
            if oip
            else {"--shape": self.shapes, "--integers": self.integers, "--input": self.inputs},
        )
        if self.texts and self.words:
            raise BadInputError("--texts gives the texts, --words has them made: give one of the two")
        if self.inputs:
            made = {"--texts": self.texts, "--words": self.words, "--texts-per-call": self.texts_per_call}
            _refuse("cannot be given with --input, which holds whole calls", made | {"--shape": self.shapes})
        if oip and not self.model:
            raise BadInputError("--protocol oip needs --model")
        if not oip and self.version and not self.version.isdecimal():
            raise BadInputError(f"--version {self.version!r} is no whole number")

    def calls(self) -> list[tuple[str, ...]]:
        """The texts of the calls of a run."""
        size = self.texts_per_call or 1
        if self.texts is not None:
            return groups(read_texts(self.texts), size)
        lengths = words.Lengths.parsed(self.words or words.DEFAULT_LENGTHS)
        return made_groups(words.texts(lengths, self.seed), size)

    def workload(self, trace: Path | None) -> str:
        """Where the texts or tensors came from, in words."""
        if trace is not None:
            return f"trace {trace.name}"
        if self.inputs is not None:
            return f"tensors of {self.inputs.name}"
        if self.texts is not None:
            return f"texts of {self.texts.name}"
        return f"texts of common words, {self.words or words.DEFAULT_LENGTHS}"


def make_requests(shared: Shared, endpoint: Endpoint, trace: list[TracedCall] | None) -> tuple[str, Requests]:
    """The task and the messages of a run; asks the server what it must.

    Args:
        shared: The options.
        endpoint: Where the server is.
        trace: The calls of a trace, whose texts go in place of others.

    Raises:
        LoadError: The server does not answer, or options do not fit what it says.
    """
    if shared.protocol == "oip":
        return "infer", _infer_requests(shared, endpoint, trace)
    version = int(shared.version or 0)
    task = shared.task or discovery.task_of(endpoint, shared.model, version)
    if task == "rerank" and shared.query is None:
        raise BadInputError("the task rerank needs --query")
    if shared.query is not None and task != "rerank":
        raise BadInputError(f"--query goes with the task rerank only, not with {task}")
    if shared.max_new_tokens and task != "generate":
        raise BadInputError(f"--max-new-tokens goes with the task generate only, not with {task}")
    if shared.truncate and task in {"generate", "tokenize"}:
        raise BadInputError(f"--truncate does not go with the task {task}")
    asked = typed.Asked(shared.model, version, shared.truncate, shared.query or "", shared.max_new_tokens or 0)
    calls = shared.calls() if trace is None else [call.texts for call in trace]
    return task, typed.typed_requests(task, asked, calls, stream=shared.stream)


def _infer_requests(shared: Shared, endpoint: Endpoint, trace: list[TracedCall] | None) -> Requests:
    specs = discovery.inputs_of(endpoint, shared.model, shared.version)
    if shared.inputs is not None:
        given = tensors.read_inputs(shared.inputs, specs)
        sizes = [max((each.shape[0] for each in call.values() if each.shape), default=1) for call in given]
        return tensors.infer_requests(shared.model, shared.version, given, sizes, stream=shared.stream)
    calls = shared.calls() if trace is None else [call.texts for call in trace]
    filling = Filling(dict(map(_shape, shared.shapes)), _integers(shared.integers or "1:1"), shared.seed)
    made = tensors.made_inputs(specs, calls, filling)
    return tensors.infer_requests(shared.model, shared.version, made, [*map(len, calls)], stream=shared.stream)


def shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds these options to a command, which gets them as one `shared`."""

    @functools.wraps(command)
    def with_shared(**options: Any) -> None:  # noqa: ANN401 - the command's own options are among them
        shared = Shared(**{field.name: options.pop(field.name) for field in fields(Shared)})
        command(shared=shared, **options)

    decorated: Callable[..., None] = with_shared
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def _refuse(why: str, given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value:
            raise BadInputError(f"{name} {why}")


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not re.fullmatch(r"[0-9a-z_.-]+", key) or key.endswith("-bin"):
        raise BadInputError(f"--metadata {text!r} is no KEY=VALUE with a key in lower case")
    return key, value


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    match = re.fullmatch(r"(.+):(-1|\d+(?:,\d+)*|-1(?:,\d+)+)", text)
    if match is None:
        raise BadInputError(f"--shape {text!r} is no INPUT:N,N,...")
    return match[1], tuple(map(int, match[2].split(",")))


def _integers(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(-?\d+):(-?\d+)", text)
    if match is None or int(match[1]) > int(match[2]):
        raise BadInputError(f"--integers {text!r} is no LOW:HIGH")
    return int(match[1]), int(match[2])


SECONDS: Final = _POSITIVE
"""A length of time that is not nothing."""


def together(names: Iterable[str]) -> str:
    """Options in words: `--a, --b or --c`."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
