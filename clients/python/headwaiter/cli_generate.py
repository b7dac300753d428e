"""The command `headwaiter generate`."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections import defaultdict
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from headwaiter import bulk
from headwaiter.async_client import AsyncClient
from headwaiter.cli_options import batches_of, endpoint_options, json_line, json_option, model_options
from headwaiter.errors import DeadlineExceededError, HeadwaiterError
from headwaiter.generation_lines import logprob_lines, piece_value, result_lines, result_value, timings_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from headwaiter.cli_options import Endpoint
    from headwaiter.generation_stream import AsyncGenerationStream
    from headwaiter.results import GenerateReply, GenerationPiece, GenerationResult

_COUNT = click.IntRange(min=0)

# Checked by the server, which knows what a model takes and what goes together.
_OPTIONS = (
    click.option(
        "--max-new-tokens",
        type=_COUNT,
        default=0,
        metavar="N",
        help="Most tokens of a text; by default all that fit.",
    ),
    click.option("--temperature", type=float, default=0.0, metavar="X", help="Draw tokens by chance.  [0: do not]"),
    click.option("--top-k", type=_COUNT, default=0, metavar="N", help="Draw only from the N likeliest tokens."),
    click.option("--top-p", type=float, metavar="P", help="Draw only from the likeliest that reach probability P."),
    click.option("--seed", type=_COUNT, metavar="N", help="Where chance begins; by default the server chooses."),
    click.option("--repetition-penalty", type=float, metavar="X", help="Above 1, avoid tokens that were there before."),
    click.option("--num-beams", type=_COUNT, default=0, metavar="N", help="Beam search with N candidates."),
    click.option(
        "--num-return-sequences", type=_COUNT, default=0, metavar="N", help="Print the N best of them, with scores."
    ),
    click.option("--length-penalty", type=float, metavar="X", help="Of beam search: above 1, prefer longer texts."),
    click.option("--stop", multiple=True, metavar="TEXT", help="End a text where TEXT appears in it; repeatable."),
    click.option("--stop-token-ids", type=_COUNT, multiple=True, metavar="ID", help="End at this token; repeatable."),
    click.option("--logprobs", type=_COUNT, metavar="N", help="Tell how likely tokens were, and N likely ones each."),
    click.option(
        "--attention", is_flag=True, help="Tell what tokens attended to, of a model with an encoder; goes with --json."
    ),
)


def _generation_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@model_options
@_generation_options
@click.option(
    "--stream/--no-stream",
    default=None,
    help="Whether texts are printed piece by piece; by default they are on a terminal.",
)
@json_option
@click.option("--timings", is_flag=True, help="Also say where the time of each call went.")
@endpoint_options
def generate(
    texts: tuple[str, ...],
    endpoint: Endpoint,
    *,
    stream: bool | None,
    as_json: bool,
    timings: bool,
    **arguments: Any,  # noqa: ANN401 - `Client.generate`'s
) -> None:
    """Generates a text for each TEXT, or for each line of the standard input.

    Results are printed in the order of the texts, one a line; on a terminal as they are generated. Lines are read when
    no TEXT is given, or "-"; blank ones are skipped.
    """
    if arguments["attention"] and not as_json:
        raise click.UsageError(
            "--attention goes with --json; of models with an encoder `headwaiter explain --attention` draws it"
        )
    batches = batches_of(texts)
    form = _Form(as_json, timings, candidates=arguments["num_return_sequences"] > 1)
    streams = _watched() and not as_json if stream is None else stream

    async def run() -> None:
        async with endpoint.open(AsyncClient) as client:

            async def call(texts: tuple[str, ...], /) -> GenerateReply:
                return await client.generate(texts, **arguments)

            if streams:
                await _print_streams(lambda texts: client.generate_stream(texts, **arguments), batches, form, endpoint)
                return
            async with aclosing(bulk.answers(call, batches)) as answers:
                async for answered in answers:
                    form.print_reply(answered.texts, answered.reply)

    asyncio.run(run())


def _watched() -> bool:
    """Whether the standard output is a terminal; it may be closed."""
    return sys.stdout is not None and sys.stdout.isatty()


@dataclass(frozen=True, slots=True)
class _Form:
    """What results look like."""

    as_json: bool
    timings: bool
    candidates: bool

    def print_reply(self, texts: tuple[str, ...], reply: GenerateReply) -> None:
        if self.as_json:
            of_call = self._of_call(reply)
            lines = [
                json_line({"input": text, **result_value(generation), **of_call})
                for text, generation in zip(texts, reply.generations, strict=True)
            ]
        else:
            lines = [line for generation in reply.generations for line in self.lines(generation)]
        # One write for all: a line at a time costs more than the calls when many are read.
        click.echo("\n".join(lines))
        if not self.as_json:
            self.print_timings(reply)

    def lines(self, generation: GenerationResult) -> Iterator[str]:
        yield from result_lines(generation, candidates=self.candidates)
        yield from logprob_lines(generation)

    def print_timings(self, reply: GenerateReply) -> None:
        if self.timings:
            click.echo(json_line(self._of_call(reply)) if self.as_json else timings_line(reply), err=not self.as_json)

    def _of_call(self, reply: GenerateReply) -> dict[str, object]:
        timings = {"timings": dataclasses.asdict(reply.timings)} if self.timings else {}
        return {"model": reply.model, "version": reply.version, "variant": reply.variant, **timings}


async def _print_streams(
    start: Callable[[tuple[str, ...]], AsyncGenerationStream],
    batches: AsyncIterator[list[bulk.Text]],
    form: _Form,
    endpoint: Endpoint,
) -> None:
    """Prints the texts of one call after the other, as they come."""
    before = 0
    async for batch in batches:
        texts = tuple(text.decoded() for text in batch)
        printer = _PiecesAsJson(texts, before) if form.as_json else _PiecesInOrder(form)
        # Of the texts that have not ended.
        origins = {index: text.origin for index, text in enumerate(batch)}
        with bulk.named_by_origin(batch):
            async with start(texts) as stream:
                try:
                    while (piece := await _next(stream, origins.values(), endpoint.timeout_seconds)) is not None:
                        printer.take(piece)
                        if piece.finished is not None:
                            del origins[piece.index]
                except HeadwaiterError:
                    printer.break_off()
                    raise
                form.print_timings(await stream.reply())
        before += len(texts)


async def _next(
    stream: AsyncGenerationStream, origins: Iterable[str], patience_seconds: float
) -> GenerationPiece | None:
    # A deadline for the whole would end every text that is long enough.
    try:
        async with asyncio.timeout(patience_seconds):
            return await anext(stream, None)
    except TimeoutError as error:
        origin = next(iter(origins), "the end of the stream")
        raise DeadlineExceededError(f"{origin}: nothing more within {patience_seconds:g} s") from error


class _PiecesAsJson:
    """Prints pieces as they come, each as a line; the last one of a text with what it was generated for.

    Args:
        texts: What they are generated for.
        before: How many texts went before.
    """

    def __init__(self, texts: tuple[str, ...], before: int) -> None:
        self._texts = texts
        self._before = before

    def take(self, piece: GenerationPiece) -> None:
        of: dict[str, object] = {"index": self._before + piece.index}
        if piece.finished is not None:
            of["input"] = self._texts[piece.index]
        click.echo(json_line(of | piece_value(piece)))

    def break_off(self) -> None:
        """Every line is whole."""


class _PiecesInOrder:
    """Prints the texts of a call one below the other, the one whose turn it is as it comes."""

    def __init__(self, form: _Form) -> None:
        self._form = form
        self._turn = 0
        self._early: defaultdict[int, list[GenerationPiece]] = defaultdict(list)
        self._amid = False

    def take(self, piece: GenerationPiece) -> None:
        self._early[piece.index].append(piece)
        while self._early[self._turn]:
            ready = self._early.pop(self._turn)
            for each in ready:
                self._print(each)
            if ready[-1].finished is None:
                return
            self._turn += 1

    def break_off(self) -> None:
        """Leaves no line open; after Ctrl-C click does so."""
        if self._amid:
            click.echo()

    def _print(self, piece: GenerationPiece) -> None:
        if not self._form.candidates:
            click.echo(piece.text, nl=False)
            self._amid = piece.finished is None
        if piece.finished is not None:
            # The text itself stands there already.
            first, *lines = self._form.lines(piece.finished)
            click.echo("\n".join([first, *lines] if self._form.candidates else ["", *lines]))
