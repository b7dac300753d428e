"""The command `headwaiter embed`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from contextlib import ExitStack, aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from headwaiter import bulk
from headwaiter.async_client import AsyncClient
from headwaiter.bulk import Answered, Text
from headwaiter.cli_options import endpoint_options, model_options, truncate_option
from headwaiter.errors import DeadlineExceededError, InvalidRequestError
from headwaiter.vector_files import JsonLines, Npy, VectorFile

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from click._termui_impl import ProgressBar

    from headwaiter.cli_options import Endpoint
    from headwaiter.results import EmbedReply, StreamedReply


@click.command()
@click.argument("file", default="-", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--output",
    default="-",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Where to: a .npy file, or JSON lines to any other or to the standard output.",
)
@click.option(
    "--jsonl/--lines",
    default=None,
    help="Whether a line is a JSON object or a text; by default what the file's name says, .jsonl or not.",
)
@click.option("--field", default="text", show_default=True, metavar="NAME", help="Field of a JSON object to embed.")
@click.option(
    "--stream/--calls", default=True, show_default=True, help="Whether all texts go over one call, or 32 over each."
)
@click.option("--prompt", metavar="NAME", help='The model\'s prompt to put before each text; "" for none.')
@click.option("--dimensions", type=click.IntRange(min=0), default=0, metavar="N", help="Only the first N numbers.")
@click.option("--normalize/--no-normalize", default=None, help="Whether vectors get length 1; by default the model's.")
@model_options
@truncate_option
@endpoint_options
def embed(
    file: str,
    output: str,
    endpoint: Endpoint,
    *,
    jsonl: bool | None,
    field: str,
    stream: bool,
    **arguments: Any,  # noqa: ANN401 - `Client.embed`'s
) -> None:
    """Embeds each line of FILE, or of the standard input ("-"): plain texts, or JSON objects that hold one.

    Vectors are written in the order of the lines; blank lines are skipped.
    """
    with ExitStack() as resources:
        batches = bulk.from_lines(_source(file, resources))
        if file.endswith((".jsonl", ".ndjson")) if jsonl is None else jsonl:
            batches = _fields(batches, field)
        target = sys.stdout.buffer if output == "-" else resources.enter_context(Path(output).open("wb"))
        vectors: VectorFile = Npy(target) if output.endswith(".npy") else JsonLines(target)
        advance = _progress(file, output, resources)
        way = partial(_streamed, patience_seconds=endpoint.timeout_seconds) if stream else _called

        async def run() -> None:
            async with endpoint.open(AsyncClient) as client, aclosing(way(client, batches, arguments)) as answers:
                async for answered in answers:
                    vectors.write(answered.texts, answered.reply)
                    advance(len(answered.texts))

        try:
            asyncio.run(run())
        finally:
            # What came before a failure is there, and can be read.
            vectors.finish()


def _source(file: str, resources: ExitStack) -> BinaryIO:
    if file != "-":
        return resources.enter_context(Path(file).open("rb"))
    if sys.stdin is None:
        raise click.UsageError("there is no FILE, and the standard input is closed")
    return sys.stdin.buffer


def _progress(file: str, output: str, resources: ExitStack) -> Callable[[int], None]:
    """A bar on the terminal, if there is one that shows nothing else; what tells it of texts that are done."""
    if file == "-" or not sys.stderr.isatty() or (output == "-" and sys.stdout.isatty()):
        return lambda _count: None
    with Path(file).open("rb") as lines:
        texts = sum(1 for line in lines if line.strip())
    bar: ProgressBar[int] = resources.enter_context(
        click.progressbar(length=texts, label="embedding", show_pos=True, file=sys.stderr)
    )
    return bar.update


async def _fields(batches: AsyncIterator[list[Text]], field: str) -> AsyncIterator[list[Text]]:
    """The texts in lines of JSON."""
    async for batch in batches:
        yield [_field(line, field) for line in batch]


def _field(line: Text, field: str) -> Text:
    try:
        value = json.loads(line.decoded())
    except json.JSONDecodeError as error:
        raise InvalidRequestError(f"{line.origin} is no JSON: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get(field), str):
        raise InvalidRequestError(f"{line.origin} is no JSON object with a text in its field {field!r}")
    return Text(line.origin, value[field].encode(errors="surrogatepass"))


def _called(
    client: AsyncClient, batches: AsyncIterator[list[Text]], arguments: dict[str, Any]
) -> AsyncGenerator[Answered[EmbedReply], None]:
    """The answers of a few calls at a time."""
    return bulk.answers(lambda texts: client.embed(texts, **arguments), batches)


async def _streamed(
    client: AsyncClient,
    batches: AsyncIterator[list[Text]],
    arguments: dict[str, Any],
    *,
    patience_seconds: float,
) -> AsyncGenerator[Answered[EmbedReply], None]:
    """The answers of one stream, up to the first error."""
    sent: deque[tuple[list[Text], tuple[str, ...]]] = deque()
    patience = _Patience(patience_seconds)

    async def items() -> AsyncGenerator[tuple[str, ...], None]:
        async for batch in batches:
            texts = tuple(text.decoded() for text in batch)
            sent.append((batch, texts))
            patience.begin()
            yield texts

    async with aclosing(client.embed_stream(items(), **arguments)) as replies:
        while True:
            try:
                each = await patience.wait(replies, due=bool(sent))
            except TimeoutError as error:
                origin = sent[0][0][0].origin
                raise DeadlineExceededError(f"{origin}: no answer within {patience_seconds:g} s") from error
            if each is None:
                return
            batch, texts = sent.popleft()
            with bulk.named_by_origin(batch):
                reply = each.get()
            yield Answered(texts, reply)


class _Patience:
    """The longest wait for the next answer of a stream.

    A deadline for the whole would end every file that is long enough, and one for each message those that queue up
    behind others of the same stream. So the clock starts over with each answer, and rests while none is due: an input
    that comes slowly is not the server's fault.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._limit: asyncio.Timeout | None = None

    def begin(self) -> None:
        """Says, from another task, that from now on an answer is due."""
        if self._limit is not None and self._limit.when() is None:
            self._limit.reschedule(asyncio.get_running_loop().time() + self._seconds)

    async def wait(self, replies: AsyncIterator[StreamedReply], *, due: bool) -> StreamedReply | None:
        """Waits for the next answer.

        Args:
            replies: The stream.
            due: Whether one is due already.

        Returns:
            The answer; None at the end of the stream.

        Raises:
            TimeoutError: It did not come in time.
        """
        try:
            async with asyncio.timeout(self._seconds if due else None) as self._limit:
                return await anext(replies, None)
        finally:
            self._limit = None
