"""How long newcomers wait for their first token with rows free: `python -m benchmarks.generation.newcomers TARGET`.

Streams of long texts keep the server busy; beside them short texts come one at a time. What they wait longer than on a
server that does nothing else is told in steps of those who are under way. Prints its figures as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from itertools import pairwise

import grpc
import uvloop

from benchmarks.encoders.outcomes import percentile
from benchmarks.generation.load import GENERATE_STREAM, Unread, connect, encode, read_pieces, stream
from benchmarks.generation.outcomes import Call
from benchmarks.generation.workloads import random_request

_SEED = 20_17
_PROMPT_TOKENS = 32
_NEWCOMER_TOKENS = 2
_LONG_TOKENS = 400
# Between newcomers, at random, so that they come at any moment of a step.
_MOST_PAUSE_SECONDS = 0.1
_RAMP_SECONDS = 2.0

Stream = grpc.aio.UnaryStreamMultiCallable[bytes, bytes]


class Visit:
    """One server, visited while it is idle and while it is busy."""

    def __init__(self, generate: Stream, model: str) -> None:
        self._generate = generate
        self._model = model
        self._random = random.Random(_SEED)
        self._begun = time.perf_counter()

    async def newcomers(self, count: int) -> list[float]:
        """Send short texts one after the other; the seconds to the first token of each."""
        seconds = []
        for _ in range(count):
            await asyncio.sleep(self._random.uniform(0, _MOST_PAUSE_SECONDS))
            call = await self._call(_NEWCOMER_TOKENS)
            seconds.append(call.token_times[0] - call.sent)
        return seconds

    async def long_texts(self) -> list[float]:
        """Send long texts until cancelled, one after the other.

        Returns:
            When tokens came.
        """
        times: list[float] = []
        try:
            while True:
                made = self._made()
                try:
                    await self._send(made, _LONG_TOKENS)
                finally:
                    times += read_pieces(made).token_times
        except asyncio.CancelledError:
            return times

    async def _call(self, new_tokens: int) -> Call:
        made = self._made()
        await self._send(made, new_tokens)
        return read_pieces(made)

    def _made(self) -> Unread:
        now = time.perf_counter() - self._begun
        return Unread(Call(0, now, now))

    async def _send(self, made: Unread, new_tokens: int) -> None:
        request = encode(self._model, random_request(self._random, _PROMPT_TOKENS, new_tokens))
        await stream(self._generate, request, made, self._begun)


async def visit(target: str, model: str, busy_rows: int, count: int) -> dict[str, float]:
    """Measure one server.

    Args:
        target: Where.
        model: Its model.
        busy_rows: Long texts at a time.
        count: Newcomers, on the idle server and on the busy one.
    """
    async with connect(target) as channel:
        generate: Stream = channel.unary_stream(GENERATE_STREAM)
        await channel.channel_ready()
        each = Visit(generate, model)
        idle = await each.newcomers(count)
        busy_texts = [asyncio.create_task(each.long_texts()) for _ in range(busy_rows)]
        await asyncio.sleep(_RAMP_SECONDS)
        busy = await each.newcomers(count)
        for task in busy_texts:
            task.cancel()
        gaps = [later - earlier for task in busy_texts for earlier, later in pairwise(await task)]
    step, own = percentile(gaps, 0.5), percentile(idle, 0.5)
    waits = [(seconds - own) / step for seconds in busy]
    return {
        "step_seconds": step,
        "idle_first_token_seconds": own,
        "wait_p50_steps": percentile(waits, 0.50),
        "wait_p90_steps": percentile(waits, 0.90),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--model", default="")
    parser.add_argument("--busy-rows", type=int, default=32)
    parser.add_argument("--count", type=int, default=50)
    options = parser.parse_args()
    print(json.dumps(uvloop.run(visit(options.target, options.model, options.busy_rows, options.count))))


if __name__ == "__main__":
    main()
