"""A load generator: `python -m benchmarks.generation.load closed|open TARGET ...` prints its figures as JSON.

`closed` keeps a number of calls of `Generate` outstanding for some time, or of `GenerateStream`. `open` sends calls of
`GenerateStream` at random times that were fixed beforehand, whatever becomes of the earlier ones, and counts each from
the time at which it was due.

Talks raw bytes over grpc.aio and reads them after the load, so that it takes as little as possible of the cores that it
shares with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import uvloop
from headwaiter_proto.v1 import inference_pb2

from benchmarks.encoders.load import PATIENCE_SECONDS, Refusals
from benchmarks.encoders.outcomes import poisson_schedule
from benchmarks.generation.outcomes import Call, Window, summarize
from benchmarks.generation.workloads import Request, read_requests

GENERATE = "/headwaiter.v1.InferenceService/Generate"
GENERATE_STREAM = "/headwaiter.v1.InferenceService/GenerateStream"
# Long texts of a slow server, one batch after the other.
_DRAIN_SECONDS = 4 * PATIENCE_SECONDS
# Before the first call of a schedule is due, so that it is not late already.
_LEAD_SECONDS = 0.2


@dataclass
class Unread:
    """A call and what it was answered, not read yet: pieces with the times at which they came."""

    call: Call
    pieces: list[tuple[float, bytes]] = field(default_factory=list)


def encode(model: str, request: Request) -> bytes:
    """A request on the wire; the same message for both methods."""
    message = inference_pb2.GenerateRequest(model=model, texts=[request.text], max_new_tokens=request.new_tokens)
    return message.SerializeToString()


async def closed_loop(
    target: str,
    requests: Sequence[bytes],
    outstanding: int,
    seconds: float,
    count: int | None = None,
    *,
    streamed: bool = False,
) -> tuple[list[Call], int]:
    """Keep calls outstanding, taking the requests in turn; wait for what is under way at the end.

    Args:
        target: Where.
        requests: What.
        outstanding: How many at a time.
        seconds: After these, none is sent.
        count: Most calls.
        streamed: Whether answers come in pieces.

    Returns:
        The calls, and how often one was refused and tried again.
    """
    queue = iter(itertools.islice(itertools.cycle(enumerate(requests)), count))
    unread: list[Unread] = []
    refusals = Refusals()
    async with connect(target) as channel:
        generate: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(GENERATE)
        generate_stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(GENERATE_STREAM)
        await channel.channel_ready()
        begun = time.perf_counter()

        async def caller() -> None:
            while (sent := time.perf_counter() - begun) < seconds and (each := next(queue, None)) is not None:
                number, request = each
                made = Unread(Call(number, sent, sent))
                unread.append(made)
                if streamed:
                    await stream(generate_stream, request, made, begun)
                    continue
                answer = await refusals.patient(generate, request)
                made.call.ended = time.perf_counter() - begun
                made.pieces.append((made.call.ended, answer))

        async with asyncio.timeout(seconds + _DRAIN_SECONDS):
            await asyncio.gather(*(caller() for _ in range(outstanding)))
    return [(read_pieces if streamed else _read_whole)(each) for each in unread], refusals.count


async def open_loop(target: str, requests: Sequence[bytes], schedule: Sequence[float]) -> list[Call]:
    """Begin a stream at each time of the schedule, taking the requests in turn."""
    unread: list[Unread] = []
    async with connect(target) as channel:
        generate: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(GENERATE_STREAM)
        await channel.channel_ready()
        begun = time.perf_counter() + _LEAD_SECONDS

        async def caller(due: float, number: int) -> None:
            await asyncio.sleep(begun + due - time.perf_counter())
            each = Unread(Call(number, due, time.perf_counter() - begun))
            unread.append(each)
            await stream(generate, requests[number], each, begun)

        await asyncio.gather(*(caller(due, number % len(requests)) for number, due in enumerate(schedule)))
    return [read_pieces(each) for each in unread]


async def stream(
    generate: grpc.aio.UnaryStreamMultiCallable[bytes, bytes], request: bytes, unread: Unread, begun: float
) -> None:
    """Make one call and note when its pieces come; times count from `begun`."""
    try:
        async for piece in generate(request, timeout=_DRAIN_SECONDS):
            unread.pieces.append((time.perf_counter() - begun, piece))
    except grpc.aio.AioRpcError as error:
        unread.call.code = error.code().value[0]
    unread.call.ended = time.perf_counter() - begun


def _read_whole(unread: Unread) -> Call:
    """An answer's call. Tokens came when the server says that they did; what the answer's way took is not in it."""
    call, ((_, answer),) = unread.call, unread.pieces
    (generation,) = inference_pb2.GenerateResponse.FromString(answer).generations
    call.token_ids = list(generation.token_ids)
    call.token_times = [call.sent + each for each in generation.token_seconds]
    return call


def read_pieces(unread: Unread) -> Call:
    """A stream's call. Tokens came when their piece did."""
    call = unread.call
    for moment, piece in unread.pieces:
        token_ids = inference_pb2.GenerateStreamResponse.FromString(piece).token_ids
        call.token_ids += token_ids
        call.token_times += [moment] * len(token_ids)
    return call


def connect(target: str) -> grpc.aio.Channel:
    """A channel that does nothing of its own accord."""
    return grpc.aio.insecure_channel(target, options=[("grpc.enable_retries", 0)])


def main() -> None:
    """Send the load and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loop", choices=["closed", "open"])
    parser.add_argument("target")
    parser.add_argument("--requests", type=Path, required=True, help="what workloads.write_requests wrote")
    parser.add_argument("--model", default="")
    parser.add_argument("--order", type=int, default=0, help="another number, another order of the requests")
    parser.add_argument("--count", type=int, help="most calls of the closed loop")
    parser.add_argument("--outstanding", type=int, default=64)
    parser.add_argument("--streamed", action="store_true", help="also in the closed loop")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--ramp-seconds", type=float, default=0.0, help="of these, that do not count")
    parser.add_argument("--rate", type=float, help="calls a second of the open loop")
    parser.add_argument("--answers", action="store_true", help="also print the tokens of each request")
    options = parser.parse_args()
    requests = [encode(options.model, each) for each in read_requests(options.requests, options.order)]
    retried = 0
    if options.loop == "closed":
        calls, retried = uvloop.run(
            closed_loop(
                options.target, requests, options.outstanding, options.seconds, options.count, streamed=options.streamed
            )
        )
    else:
        schedule = poisson_schedule(options.rate, options.seconds, options.order)
        calls = uvloop.run(open_loop(options.target, requests, schedule))
    figures: dict[str, object] = {
        **summarize(calls, Window(options.ramp_seconds, options.seconds)),
        "refused_calls": retried,
    }
    if options.answers:
        figures["answers"] = {call.request: call.token_ids for call in calls}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
