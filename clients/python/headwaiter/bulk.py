"""Many texts through one asyncio client: a few calls in flight, results in the order of the texts."""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeVar

from headwaiter.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator

ReplyT = TypeVar("ReplyT")

TEXTS_PER_CALL = 32
CALLS_IN_FLIGHT = 4

_CHUNK_BYTES = 64 * 1024
# What may be read ahead of the calls, in chunks: enough to never wait for a disk, little enough for a pipe of
# any length.
_CHUNKS_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Text:
    """One text to send, and what a person would call it when it is refused: "line 7"."""

    origin: str
    raw: bytes

    def decoded(self) -> str:
        """The text itself.

        Raises:
            InvalidRequestError: It is not UTF-8.
        """
        try:
            return self.raw.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequestError(f"{self.origin} is not UTF-8") from error


@dataclass(frozen=True, slots=True)
class Answered(Generic[ReplyT]):
    """One call's texts and its reply."""

    texts: tuple[str, ...]
    reply: ReplyT


async def answers(
    call: Callable[[tuple[str, ...]], Coroutine[Any, Any, ReplyT]], batches: AsyncIterator[list[Text]]
) -> AsyncGenerator[Answered[ReplyT], None]:
    """Calls for each batch, a few at a time, and yields the answers in the order of the batches.

    Args:
        call: A call whose other arguments are settled.
        batches: Its texts.

    Raises:
        HeadwaiterError: The first call that failed, once everything before it has been yielded. An error that
        names
            a text names it by its origin.
    """
    free = asyncio.Semaphore(CALLS_IN_FLIGHT)
    calls: asyncio.Queue[asyncio.Task[Answered[ReplyT]] | None] = asyncio.Queue()

    async def start_calls() -> None:
        try:
            async for batch in batches:
                await free.acquire()
                calls.put_nowait(asyncio.create_task(_answer(call, batch)))
        finally:
            calls.put_nowait(None)

    starter = asyncio.create_task(start_calls())
    first: asyncio.Task[Answered[ReplyT]] | None = None
    try:
        while (first := await calls.get()) is not None:
            yield await first
            free.release()
        await starter
    finally:
        started = [first, *(calls.get_nowait() for _ in range(calls.qsize()))]
        unfinished = [starter, *(task for task in started if task is not None)]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


async def _answer(
    call: Callable[[tuple[str, ...]], Coroutine[Any, Any, ReplyT]], batch: list[Text]
) -> Answered[ReplyT]:
    texts = tuple(text.decoded() for text in batch)
    with named_by_origin(batch):
        return Answered(texts, await call(texts))


@contextmanager
def named_by_origin(batch: list[Text]) -> Iterator[None]:
    """Lets an error that names a text of a call name it as a person would.

    Raises:
        InvalidRequestError: Such an error.
    """
    try:
        yield
    except InvalidRequestError as error:
        index = re.fullmatch(r"texts\[(\d+)\]", error.field)
        if index is None or int(index[1]) >= len(batch):
            raise
        message = f"{batch[int(index[1])].origin}: {error.description}"
        raise InvalidRequestError(message, error.field, error.description) from error


def batched(texts: Iterable[Text]) -> Iterable[list[Text]]:
    """Cuts texts into batches for one call each."""
    batch: list[Text] = []
    for text in texts:
        batch.append(text)
        if len(batch) == TEXTS_PER_CALL:
            yield batch
            batch = []
    if batch:
        yield batch


async def from_arguments(texts: Iterable[str]) -> AsyncIterator[list[Text]]:
    """Batches of texts that are all there."""
    for batch in batched(
        Text(f"text {number}", text.encode(errors="surrogateescape")) for number, text in enumerate(texts, 1)
    ):
        yield batch


async def from_lines(stream: BinaryIO) -> AsyncIterator[list[Text]]:
    """Batches of the lines of a stream, as they come: no line waits for a batch to fill.

    Blank lines are skipped, yet counted.
    """
    number = 0
    rest: list[bytes] = []  # of a line whose end is not there yet; joined once, however long the line
    async with aclosing(_chunks(stream)) as chunks:
        async for chunk in chunks:
            # The end of the stream ends its last line.
            first, *others = (chunk or b"\n").split(b"\n")
            rest.append(first)
            if not others:
                continue
            lines = [b"".join(rest), *others[:-1]]
            rest = others[-1:]
            texts = [Text(f"line {n}", line.removesuffix(b"\r")) for n, line in enumerate(lines, number + 1)]
            number += len(lines)
            for batch in batched(text for text in texts if text.raw.strip()):
                yield batch


async def _chunks(stream: BinaryIO) -> AsyncGenerator[bytes, None]:
    """What each read of a stream gives, and b"" at its end.

    A thread of our own does the reading: asyncio cannot wait for a regular file, and a thread of its pool
    that waits for a terminal would keep an interrupted process from ending. It reads below the buffer, whose
    lock Python wants at exit.
    """
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    room = threading.Semaphore(_CHUNKS_AHEAD)
    read: Callable[[int], bytes] = getattr(stream, "raw", stream).read

    def deliver() -> None:
        chunk: bytes | OSError = b"-"
        # Once the loop or the stream is closed (RuntimeError, ValueError), nobody wants the rest.
        with suppress(RuntimeError, ValueError):
            while chunk and not isinstance(chunk, OSError):
                room.acquire()
                try:
                    chunk = read(_CHUNK_BYTES)
                except OSError as error:
                    chunk = error
                loop.call_soon_threadsafe(received.put_nowait, chunk)

    threading.Thread(target=deliver, name="headwaiter-stdin", daemon=True).start()
    chunk = b"-"
    while chunk:
        got = await received.get()
        room.release()
        if isinstance(got, OSError):
            raise got
        chunk = got
        yield chunk
