"""Calls of all kinds at random times, as servers meet them: long ones, short ones, streams, mistakes, the impatient."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc
from headwaiter_proto.v1 import inference_pb2
from reliability.cancels_calls import (
    EMBEDDER,
    Row,
    StreamFailureError,
    StreamRefusalError,
    embed,
    embed_stream,
    generate,
    generate_stream,
    infer_vectors,
    refused,
    stream_text,
)

# Nobody tries twice: what fails is seen.
OPTIONS = [("grpc.enable_retries", 0)]
_TIMEOUT_SECONDS = 60.0
_EMBED = "/headwaiter.v1.InferenceService/Embed"
_MOST_TEXTS = 32
_LETTERS = "etaoinshrdlucmfwyp"
ONE_TEXT = "one text"


class Mistake(Exception):  # noqa: N818 - what was asked for, not what went wrong
    """A call that was wrong was refused as it should be."""


@dataclass
class Seen:
    """What became of the calls.

    Attributes:
        ended: Calls, by what was asked.
        failed: Calls that should not have ended as they did, by how.
        refused: Calls that the server would not take.
        seconds: Of the calls of one text, from when each was due, since somebody last took them.
    """

    ended: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def good(self) -> int:
        """Calls that ended as they should."""
        return self.ended.total() - self.failed.total() - self.refused


class Load:
    """Calls of all kinds; seeded, but for when they end."""

    def __init__(self, channel: grpc.aio.Channel, words: list[str], most_words: int, seed: int) -> None:
        self.seen = Seen()
        self._channel = channel
        self._words = words
        self._most_words = most_words
        self._rng = random.Random(f"{seed} soak")
        self._calls = set[asyncio.Task[None]]()
        self._mix: dict[str, tuple[int, Callable[[], Awaitable[object]]]] = {
            ONE_TEXT: (50, lambda: embed(channel, [self._text()], _TIMEOUT_SECONDS)),
            "many texts": (5, lambda: embed(channel, self._any_shape(), _TIMEOUT_SECONDS)),
            "tensors": (10, lambda: infer_vectors(channel, [self._text()], _TIMEOUT_SECONDS)),
            "stream of texts": (7, lambda: embed_stream(channel, [self._text() for _ in range(6)], _TIMEOUT_SECONDS)),
            "generation": (12, lambda: generate(channel, [self._word()], _TIMEOUT_SECONDS)),
            "stream of pieces": (5, lambda: generate_stream(channel, [self._word()], _TIMEOUT_SECONDS)),
            "stream of tensors": (3, lambda: stream_text(channel, [self._word()], _TIMEOUT_SECONDS)),
            "gone": (4, self._go_away),
            "too late": (2, self._too_late),
            "wrong": (2, self._be_wrong),
        }

    async def closed(self, seconds: float, callers: int) -> float:
        """Keep so many calls outstanding.

        Returns:
            How many a second ended as they should; those that the server would not take do not count.
        """
        began, before = time.monotonic(), self.seen.good

        async def call() -> None:
            while time.monotonic() < began + seconds:
                await self._call(*self._next(), time.monotonic())

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(call())
        return (self.seen.good - before) / (time.monotonic() - began)

    async def open(self, seconds: float, calls_per_second: float) -> None:
        """Call at random times, whatever becomes of earlier calls; returns when the last one has ended."""
        due = began = time.monotonic()
        while (due := due + self._rng.expovariate(calls_per_second)) < began + seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._call(*self._next(), due))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
        await asyncio.gather(*self._calls)

    def _next(self) -> tuple[str, Callable[[], Awaitable[object]]]:
        (name,) = self._rng.choices(list(self._mix), [weight for weight, _ in self._mix.values()])
        return name, self._mix[name][1]

    async def _call(self, name: str, ask: Callable[[], Awaitable[object]], due: float) -> None:
        seen = self.seen
        try:
            await ask()
        except grpc.aio.AioRpcError as error:
            if refused(error):
                seen.refused += 1
            else:
                seen.failed[f"{name}: {error.code().name} {error.details()}"] += 1
        except StreamRefusalError:
            seen.refused += 1
        except StreamFailureError as error:
            seen.failed[f"{name}: {error}"] += 1
        except Mistake:
            pass
        else:
            if name == ONE_TEXT:
                seen.seconds.append(time.monotonic() - due)
        seen.ended[name] += 1

    def _text(self) -> str:
        """As long as texts are: most short, a few long."""
        count = max(1, min(self._most_words, round(self._rng.lognormvariate(2.2, 0.8))))
        return " ".join(self._rng.choices(self._words, k=count))

    def _any_shape(self) -> list[str]:
        """A call of any number of texts of any length; small ones as often as large ones."""
        rng = self._rng
        lengths = (round(math.exp(rng.uniform(0, math.log(self._most_words)))) for _ in range(_drawn(rng, _MOST_TEXTS)))
        return [" ".join(rng.choices(self._words, k=length)) for length in lengths]

    def _word(self) -> str:
        return "".join(self._rng.choices(_LETTERS, k=self._rng.randint(1, 12)))

    async def _go_away(self) -> None:
        kind = self._rng.choice((embed, generate, generate_stream, embed_stream))
        texts = [self._word()] if kind in {generate, generate_stream} else [self._text()]
        call = asyncio.create_task(_asked(kind, self._channel, texts))
        await asyncio.wait([call], timeout=self._rng.uniform(0, 0.03))
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    async def _too_late(self) -> None:
        try:
            await embed(self._channel, self._any_shape(), self._rng.uniform(0.001, 0.01))
        except grpc.aio.AioRpcError as error:
            # It may also be told at once that the answer would come too late.
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED and not refused(error):
                raise

    async def _be_wrong(self) -> None:
        wrong = self._rng.choice(
            [
                inference_pb2.EmbedRequest(model="unknown", texts=["a"]).SerializeToString(),
                inference_pb2.EmbedRequest(model=EMBEDDER).SerializeToString(),
                inference_pb2.EmbedRequest(model=EMBEDDER, texts=[" ".join(self._words * 100)]).SerializeToString(),
                b"\xff\xff\xff",
            ]
        )
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_EMBED)
        try:
            await call(wrong, timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}:
                raise Mistake from None
            raise


async def _asked(
    kind: Callable[[grpc.aio.Channel, list[str], float | None], Awaitable[list[Row]]],
    channel: grpc.aio.Channel,
    texts: list[str],
) -> None:
    await kind(channel, texts, _TIMEOUT_SECONDS)


def _drawn(rng: random.Random, most: int) -> int:
    return round(math.exp(rng.uniform(0, math.log(most))))
