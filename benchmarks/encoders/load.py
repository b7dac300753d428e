"""A load generator: `python -m benchmarks.encoders.load closed|streams|open TARGET ...` prints its figures as JSON.

`closed` keeps a number of calls outstanding until all texts are done; `streams` a number of streams, each with one
message unanswered. `open` sends calls at random times that were fixed beforehand, whatever becomes of the earlier ones,
and counts each from the time at which it was due: a server that stalls is not spared the calls that would have come
meanwhile.

Talks raw bytes over grpc.aio, so that it takes as little as possible of the cores it shares with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import grpc
import uvloop
from headwaiter_proto.v1 import inference_pb2

from benchmarks.encoders.outcomes import OK, UNAVAILABLE, Outcome, percentile, poisson_schedule, summarize_open
from benchmarks.encoders.workloads import read_workload

EMBED = "/headwaiter.v1.InferenceService/Embed"
EMBED_STREAM = "/headwaiter.v1.InferenceService/EmbedStream"
# After this without an answer, where the load itself sets no deadline, something is broken.
PATIENCE_SECONDS = 30.0
# Before the first call of a schedule is due, so that it is not late already.
_LEAD_SECONDS = 0.2
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_SHORTEST_PUSHBACK_SECONDS = 0.01

Embed = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
EmbedStream = grpc.aio.StreamStreamMultiCallable[bytes, bytes]


class Refusals:
    """How often a closed loop's calls were refused and tried again."""

    def __init__(self) -> None:
        self.count = 0

    async def patient(self, embed: Embed, request: bytes) -> bytes:
        """Call until it is answered, waiting between tries as the server asks, like gRPC's own retries."""
        while True:
            try:
                return await embed(request)
            except grpc.aio.AioRpcError as error:
                if error.code().value[0] != UNAVAILABLE:
                    raise
                self.count += 1
                await asyncio.sleep(_pushback_seconds(error))


def _pushback_seconds(error: grpc.aio.AioRpcError) -> float:
    asked = dict(error.trailing_metadata() or ()).get(_PUSHBACK_KEY, "0")
    return max(_SHORTEST_PUSHBACK_SECONDS, int(asked) / 1000)


async def closed_loop(
    target: str, requests: Iterable[bytes], outstanding: int, limit_seconds: float, method: str = EMBED
) -> dict[str, float]:
    """Send all requests, `outstanding` at a time; stop sending at the limit, and wait for what is under way."""
    queue = iter(requests)
    seconds: list[float] = []
    refusals = Refusals()
    async with _channel(target) as channel:
        embed: Embed = channel.unary_unary(method)
        await channel.channel_ready()
        begun = time.perf_counter()

        async def caller() -> None:
            while time.perf_counter() < begun + limit_seconds and (request := next(queue, None)) is not None:
                started = time.perf_counter()
                await refusals.patient(embed, request)
                seconds.append(time.perf_counter() - started)

        async with asyncio.timeout(limit_seconds + PATIENCE_SECONDS):
            await asyncio.gather(*(caller() for _ in range(outstanding)))
        wall = time.perf_counter() - begun
    return _figures(seconds, wall, refusals.count)


async def stream_loop(target: str, requests: Iterable[bytes], streams: int, limit_seconds: float) -> dict[str, float]:
    """Send all requests as messages of so many streams, the next of each when its last is answered.

    At the limit the streams end, when what is under way is answered. Messages count as calls.

    Raises:
        RuntimeError: A message was refused, which no lack of room excuses: the server then reads on later. Or a stream
            has failed.
    """
    queue = iter(requests)
    seconds: list[float] = []
    async with _channel(target) as channel:
        embed: EmbedStream = channel.stream_stream(EMBED_STREAM)
        await channel.channel_ready()
        begun = time.perf_counter()

        async def sender() -> None:
            stream = embed()
            while time.perf_counter() < begun + limit_seconds and (request := next(queue, None)) is not None:
                started = time.perf_counter()
                await stream.write(request)
                answer = await stream.read()
                seconds.append(time.perf_counter() - started)
                _check_answer(answer)
            await stream.done_writing()
            if (code := await stream.code()) is not grpc.StatusCode.OK:
                raise RuntimeError(f"a stream ended with {code}")

        async with asyncio.timeout(limit_seconds + PATIENCE_SECONDS):
            await asyncio.gather(*(sender() for _ in range(streams)))
        wall = time.perf_counter() - begun
    return _figures(seconds, wall, 0)


def _check_answer(answer: object) -> None:
    if not isinstance(answer, bytes):
        raise RuntimeError("the stream ended before its message was answered")  # noqa: TRY004 - the server's fault
    response = inference_pb2.EmbedStreamResponse.FromString(answer)
    if response.HasField("error"):
        raise RuntimeError(f"a message was refused: {response.error.message}")


def _figures(seconds: Sequence[float], wall_seconds: float, refused_calls: int) -> dict[str, float]:
    return {
        "calls": len(seconds),
        "wall_seconds": wall_seconds,
        "calls_per_second": len(seconds) / wall_seconds,
        "refused_calls": refused_calls,
        "p50_seconds": percentile(seconds, 0.50),
        "p99_seconds": percentile(seconds, 0.99),
    }


async def open_loop(
    target: str, requests: Sequence[bytes], schedule: Sequence[float], deadline_seconds: float
) -> list[Outcome]:
    """Send a call at each time of the schedule, taking the requests in turn."""
    outcomes: list[Outcome] = []
    loop = asyncio.get_running_loop()
    async with _channel(target) as channel:
        embed: Embed = channel.unary_unary(EMBED)
        await channel.channel_ready()
        begun = loop.time() + _LEAD_SECONDS

        async def call(due: float, request: bytes) -> None:
            sent, code = loop.time(), OK
            try:
                await embed(request, timeout=max(0.001, due + deadline_seconds - sent))
            except grpc.aio.AioRpcError as error:
                code = error.code().value[0]
            outcomes.append(Outcome(loop.time() - due, code, sent - due))

        tasks: list[asyncio.Task[None]] = []
        all_sent = asyncio.Event()

        def start(due: float, request: bytes) -> None:
            tasks.append(loop.create_task(call(due, request)))
            if len(tasks) == len(schedule):
                all_sent.set()

        for offset, request in zip(schedule, itertools.cycle(requests), strict=False):
            loop.call_at(begun + offset, start, begun + offset, request)
        if schedule:
            await all_sent.wait()
        await asyncio.gather(*tasks)
    return outcomes


def _channel(target: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(
        target, options=[("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1)]
    )


def main() -> None:
    """Send the load and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loop", choices=["closed", "streams", "open"])
    parser.add_argument("target")
    parser.add_argument("--texts", type=Path, required=True, help="what workloads.write_workloads wrote")
    parser.add_argument("--workload", required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--order", type=int, default=0, help="another number, another order of the texts")
    parser.add_argument("--count", type=int, required=True, help="texts; they repeat if the workload has fewer")
    parser.add_argument("--texts-per-call", type=int, default=1, help="or in each message of a stream")
    parser.add_argument("--outstanding", type=int, default=64, help="calls, or streams")
    parser.add_argument("--limit-seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, help="calls a second of the open loop")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the open loop")
    parser.add_argument("--deadline-seconds", type=float, default=PATIENCE_SECONDS)
    options = parser.parse_args()
    own = read_workload(options.texts, options.workload, options.order)
    texts = list(itertools.islice(itertools.cycle(own), options.count))
    size = options.texts_per_call
    calls = [texts[at : at + size] for at in range(0, len(texts), size)]
    asked = [inference_pb2.EmbedRequest(model=options.model, texts=call) for call in calls]
    requests = [each.SerializeToString() for each in asked]
    if options.loop == "open":
        schedule = poisson_schedule(options.rate, options.seconds, options.order)
        outcomes = uvloop.run(open_loop(options.target, requests, schedule, options.deadline_seconds))
        figures = summarize_open(outcomes, options.seconds, options.deadline_seconds)
    else:
        if options.loop == "closed":
            loop = closed_loop(options.target, requests, options.outstanding, options.limit_seconds)
        else:
            messages = [inference_pb2.EmbedStreamRequest(request=each).SerializeToString() for each in asked]
            loop = stream_loop(options.target, messages, options.outstanding, options.limit_seconds)
        figures = uvloop.run(loop)
        # The last call may be a smaller one, and the limit may have come first.
        figures["texts"] = min(len(texts), int(figures["calls"]) * size)
        figures["texts_per_second"] = figures["texts"] / figures["wall_seconds"]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
