"""What a real server records of work that nobody waits for, and of texts that wait for mates."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from headwaiter import AsyncClient, Client
from headwaiter_proto.v1 import inference_pb2

from .process import ServerProcess, running_server

# Times of waiting, and processor seconds.
pytestmark = pytest.mark.alone

GENERATE = "/headwaiter.v1.InferenceService/Generate"
WASTED = 'headwaiter_wasted_cpu_seconds_total{{model="pronounce",reason="{}"}}'
SPENT = 'headwaiter_cpu_seconds_total{model="pronounce"}'


def until(server: ServerProcess, condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """The first scrape of which it holds."""
    end = time.monotonic() + 60
    while not condition(scraped := server.scrape()):
        assert time.monotonic() < end, "the metrics never said so"
        time.sleep(0.05)
    return scraped


def settled(server: ServerProcess) -> tuple[float, ...]:
    """What was wasted by cancelling and by expiry, and what runs took, once nothing runs and nothing is added."""
    names = (WASTED.format("cancelled"), WASTED.format("expired"), SPENT)
    before: tuple[float, ...] = ()
    while True:
        # The texts that are left go in a last run, which is charged a moment after they have gone.
        scraped = until(server, lambda scraped: scraped['headwaiter_running_texts{model="pronounce"}'] == 0)
        now = tuple(scraped[name] for name in names)
        if now == before:
            return now
        before = now


async def test_all_is_wasted_when_nobody_stays(models_dir: Path) -> None:
    """Of calls that are all cancelled or expire while they are generated, every second that runs took was wasted."""
    dice = random.Random(1)
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=40)) for _ in range(1000)]
    request = inference_pb2.GenerateRequest(texts=words).SerializeToString()
    # Two texts at a time: on any machine it takes far longer than the deadline to answer one of the calls, and far
    # more of the processor than is spent before the first of them is called off.
    few = ("--workers", "1", "--max-batch-rows", "2")
    with running_server("--models", str(models_dir), "--lame-duck-seconds", "0", *few) as server:
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            generate: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(GENERATE)
            gone = generate(request)
            await asyncio.to_thread(until, server, lambda scraped: scraped[SPENT] > 1.5)
            late = generate(request, timeout=2.5)
            gone.cancel()
            with pytest.raises(grpc.aio.AioRpcError):
                await late
        cancelled, expired, spent = await asyncio.to_thread(settled, server)
    assert cancelled > 0
    assert expired > 0
    # What is beyond that is tokenizing the two thousand words: some 70 ms, on any machine far less than a call's runs.
    assert spent <= (cancelled + expired) * (1 + 1e-9)
    assert cancelled + expired - spent < 0.2 * spent


@pytest.mark.torch
def test_texts_of_several_callers_share_a_run_when_they_wait_for_mates(encoders_dir: Path) -> None:
    """With a delay, callers who send within it are answered from one run, which says why it began."""
    with (
        # Time enough for all of them to come, however busy the machine is; one worker, as two might share them out.
        running_server("--models", str(encoders_dir), "--batch-delay-seconds", "8", "--workers", "1") as server,
        Client(server.grpc, timeout_seconds=60) as client,
        ThreadPoolExecutor(4) as callers,
    ):
        results = list(callers.map(lambda word: client.embed([word], model="embed"), ["soup", "fire", "water", "note"]))
        assert {result.timings.batch_size for result in results} == {4}
        # The delay counts from when a call came, the wait from when its text is tokens.
        assert max(result.timings.queue_seconds for result in results) >= 7
        longest = max(result.timings.total_seconds for result in results)
        assert longest >= 8
        scraped = server.scrape()
    assert scraped['headwaiter_batches_total{model="embed",reason="delay"}'] == 1
    assert 7 <= scraped['headwaiter_batch_wait_duration_seconds_sum{model="embed"}'] <= longest


@pytest.mark.torch
async def test_server_that_drains_does_not_wait_for_mates(encoders_dir: Path) -> None:
    """After SIGTERM a text that would wait for ten seconds more is answered as soon as no more calls are taken."""
    arguments = ("--models", str(encoders_dir), "--batch-delay-seconds", "10", "--lame-duck-seconds", "0")
    with running_server(*arguments) as server:
        async with AsyncClient(server.grpc, timeout_seconds=60) as client:
            call = asyncio.create_task(client.embed(["soup"], model="embed"))
            await asyncio.to_thread(
                until, server, lambda scraped: scraped['headwaiter_queue_depth{model="embed"}'] == 1
            )
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(8):
                result = await call
        assert result.timings.batch_size == 1
        assert server.process.wait(20) == 0
