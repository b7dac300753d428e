"""Keeps a number of calls outstanding until all words are pronounced: `python -m benchmarks.load TARGET ...`.

Talks raw bytes over grpc.aio, so that the generator takes as little as possible of the cores it shares with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

import grpc
import uvloop
from headwaiter_proto.v1 import inference_pb2

from benchmarks.pronounce_words import sample_words

GENERATE = "/headwaiter.v1.InferenceService/Generate"


async def run(target: str, requests: list[bytes], outstanding: int) -> list[float]:
    """Send all requests, `outstanding` at a time; the seconds each took."""
    queue = iter(requests)
    seconds: list[float] = []
    async with grpc.aio.insecure_channel(target) as channel:
        generate: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(GENERATE)

        async def caller() -> None:
            for request in queue:
                started = time.perf_counter()
                await generate(request)
                seconds.append(time.perf_counter() - started)

        await asyncio.gather(*(caller() for _ in range(outstanding)))
    return seconds


def main() -> None:
    """Send the load and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--words", type=int, required=True)
    parser.add_argument("--texts", type=int, default=1, help="words in a call")
    parser.add_argument("--outstanding", type=int, default=64)
    options = parser.parse_args()
    words = sample_words(options.words)
    requests = [
        inference_pb2.GenerateRequest(texts=words[at : at + options.texts]).SerializeToString()
        for at in range(0, len(words), options.texts)
    ]
    started = time.perf_counter()
    seconds = sorted(uvloop.run(run(options.target, requests, options.outstanding)))
    wall = time.perf_counter() - started
    figures = {
        "words_per_second": len(words) / wall,
        "p50_seconds": seconds[len(seconds) // 2],
        "p99_seconds": seconds[int(0.99 * (len(seconds) - 1))],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
