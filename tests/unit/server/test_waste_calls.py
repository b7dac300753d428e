"""What is recorded as wasted, over real sockets and the server's own wiring, with engines that burn processor time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from fakes import Gate
from google.protobuf.message import Message
from headwaiter_proto.v1 import bundle_pb2, inference_pb2
from headwaiter_server.config import ServerSettings
from headwaiter_server.encoding import Encoding
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.metrics import Metrics
from headwaiter_server.metrics.statistics import ModelCounts
from headwaiter_server.pipeline import Pipeline
from headwaiter_server.rpc.edge import Edge
from headwaiter_server.rpc.inference import SERVICE_NAME, InferenceService
from headwaiter_server.rpc.server import GrpcServer
from headwaiter_server.scheduling.admission import Admission
from headwaiter_server.scheduling.dispatcher import Dispatcher
from headwaiter_server.scheduling.forecast import Forecast
from headwaiter_server.wiring import Wiring

from .burning import POISON, BurningEncoder, BurningModel, Ledger, burn

# Long enough for what the clock of processor time is off by, and what is spent around the engine, to be less than 5 %,
# on a slow machine, too.
TOKEN_SECONDS = 0.01
READING_SECONDS = 0.5
CLOSE = 0.05
# Of a call that is in its run by then, however busy the machine is.
DEADLINE_SECONDS = 4.0
Call = grpc.aio.UnaryUnaryCall[bytes, bytes]
EMBED, GENERATE = "Embed", "Generate"
FIRST = 10


class NumberTokenizer:
    """Reads a text of numbers as those token ids, after `on_encode`."""

    def __init__(self) -> None:
        self.on_encode: Callable[[], None] = lambda: None

    def encode_all(self, texts: Sequence[str], field: str, *, truncate: bool = False) -> list[Encoding]:
        self.on_encode()
        return [Encoding([int(word) for word in text.split()]) for text in texts]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


@dataclass
class Serving:
    """A server in this process, and a client's channel to it."""

    channel: grpc.aio.Channel
    metrics: Metrics
    tokenizer: NumberTokenizer
    dispatcher: Dispatcher

    def embed(self, *texts: str, timeout: float | None = None) -> Call:
        return self._call(EMBED, inference_pb2.EmbedRequest(texts=texts, model=EMBED), timeout)

    def generate(self, *texts: str, timeout: float | None = None) -> Call:
        return self._call(GENERATE, inference_pb2.GenerateRequest(texts=texts, model=GENERATE), timeout)

    def wasted(self, reason: str, model: str = EMBED) -> float:
        """Seconds that the metrics say were wasted."""
        return self.metrics.registry.get_sample_value(
            "headwaiter_wasted_cpu_seconds_total", {"model": model, "reason": reason}
        ) or 0.0  # fmt: skip

    def spent(self, model: str = EMBED) -> float:
        """Seconds that the metrics say runs took."""
        return self.metrics.registry.get_sample_value("headwaiter_cpu_seconds_total", {"model": model}) or 0.0

    def started(self, method: str) -> int:
        """Calls of a method that have come in."""
        return int(self.metrics.requests_started[(f"{SERVICE_NAME}/{method}",)])

    def ended(self, code: str) -> int:
        """Calls that ended so."""
        return sum(int(number) for (*_, each), number in self.metrics.requests.items() if each == code)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when it holds; what the test itself does not do comes over the socket."""
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.001)

    async def quiet(self) -> None:
        """Return when no run is under way."""
        await self.until(lambda: not self.dispatcher.busy_workers)

    def _call(self, method: str, message: Message, timeout: float | None) -> Call:
        multicallable: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        multicallable = self.channel.unary_unary(f"/{SERVICE_NAME}/{method}")
        return multicallable(message.SerializeToString(), timeout=timeout)


@asynccontextmanager
async def serving(
    folder: Path, encoder: BurningEncoder, generator: BurningModel | None = None
) -> AsyncIterator[Serving]:
    """Two models of engines that burn, behind real sockets; one worker."""
    generator = generator or BurningModel(Ledger(), 0)
    settings = ServerSettings(models=folder, workers=1, threads_per_run=1, calibration="off")
    metrics, tokenizer, catalog = Metrics(), NumberTokenizer(), Catalog()
    dispatcher = Dispatcher(1, on_crash=lambda: None)
    admission = Admission(100, 1 << 20)
    wiring = Wiring(settings, dispatcher, Forecast(1), metrics, None)
    manifest = bundle_pb2.Manifest(
        limits=bundle_pb2.Limits(max_new_tokens=100), embedding=bundle_pb2.Embedding(dimension=2, normalized=True)
    )
    for name, lane, task in (
        (EMBED, wiring.lanes.open_encoder(EMBED, encoder, ModelCounts()), bundle_pb2.TASK_EMBED),
        (GENERATE, wiring.lanes.open_generation(GENERATE, generator, ModelCounts()), bundle_pb2.TASK_GENERATE),
    ):
        mine = bundle_pb2.Manifest(task=task)
        mine.MergeFrom(manifest)
        catalog.add(ServedModel(name, 1, "fp32", mine, cast("Any", tokenizer), lane))
    service = InferenceService(Pipeline(catalog, dispatcher, metrics, 1000))
    server = GrpcServer(
        [service.handlers(Edge(admission, metrics))], [SERVICE_NAME], max_message_bytes=1 << 20, max_streams=100
    )
    address = server.listen("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield Serving(channel, metrics, tokenizer, dispatcher)
    finally:
        await server.stop(0)
        assert await dispatcher.close(10)


async def status(call: Awaitable[bytes]) -> str:
    """The status that a call ended with."""
    try:
        await call
    except asyncio.CancelledError:
        return "CANCELLED"
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


def text(number: int, length: int) -> str:
    return " ".join(map(str, [number, *[5] * (length - 1)]))


async def test_cancelled_and_expired_calls_waste_what_their_texts_burned(tmp_path: Path) -> None:
    """Of a run with texts that stay, that are cancelled and that run out of time, each reason has its own part."""
    ledger, first_gate, gate = Ledger(), Gate(), Gate()
    encoder = BurningEncoder(ledger, TOKEN_SECONDS)
    encoder.on_run = lambda sources: (first_gate if sources[0].ids[0] == FIRST else gate)()
    async with serving(tmp_path, encoder) as it:
        first = it.embed(text(FIRST, 1))
        await first_gate.entered()
        stays, gone, late = (
            it.embed(text(11, 20)),
            it.embed(text(12, 30)),
            it.embed(text(13, 25), timeout=DEADLINE_SECONDS),
        )
        ends = [asyncio.ensure_future(status(call)) for call in (first, stays, gone, late)]
        await it.until(lambda: it.started(EMBED) == len(ends))
        first_gate.open()
        await gate.entered()
        gone.cancel()
        await it.until(lambda: it.ended("CANCELLED") + it.ended("DEADLINE_EXCEEDED") == 2)
        gate.open()
        assert await asyncio.gather(*ends) == ["OK", "OK", "CANCELLED", "DEADLINE_EXCEEDED"]
        await it.quiet()
        assert it.wasted("cancelled") == pytest.approx(ledger.of(12), rel=CLOSE)
        assert it.wasted("expired") == pytest.approx(ledger.of(13), rel=CLOSE)
        assert it.spent() == pytest.approx(ledger.total, rel=CLOSE)


async def test_call_of_many_texts_wastes_those_that_had_run_and_those_that_were_running(tmp_path: Path) -> None:
    """A call that is cancelled in its second run of three wastes two of them; the third never begins."""
    ledger, gate = Ledger(), Gate()
    encoder = BurningEncoder(ledger, TOKEN_SECONDS)
    encoder.on_run = lambda sources: gate() if sources[0].ids[0] == 11 else None
    async with serving(tmp_path, encoder) as it:
        call = it.embed(*(text(number, 70) for number in (10, 11, 12)))
        end = asyncio.ensure_future(status(call))
        await gate.entered()
        call.cancel()
        await it.until(lambda: it.ended("CANCELLED") == 1)
        assert it.wasted("cancelled") == pytest.approx(ledger.of(10), rel=CLOSE)
        gate.open()
        assert await end == "CANCELLED"
        await it.quiet()
        assert it.wasted("cancelled") == pytest.approx(ledger.of(10, 11), rel=CLOSE)
        assert it.spent() == pytest.approx(ledger.total, rel=CLOSE)
        assert ledger.spent.keys() == {10, 11}


async def test_cancelled_generation_wastes_every_iteration_it_was_in(tmp_path: Path) -> None:
    """Its encoding and its part of each step are wasted, also of the one under way; its mate's are not."""
    ledger, gate, steps = Ledger(), Gate(), 0
    generator = BurningModel(ledger, TOKEN_SECONDS)

    def hold_the_tenth() -> None:
        nonlocal steps
        steps += 1
        if steps == 10:
            gate()

    generator.on_step = hold_the_tenth
    async with serving(tmp_path, BurningEncoder(ledger, 0), generator) as it:
        gone, stays = it.generate(text(10, 40)), it.generate(text(11, 20))
        ends = [asyncio.ensure_future(status(call)) for call in (gone, stays)]
        await gate.entered()
        gone.cancel()
        await it.until(lambda: it.ended("CANCELLED") == 1)
        gate.open()
        assert await asyncio.gather(*ends) == ["CANCELLED", "OK"]
        await it.quiet()
        assert it.wasted("cancelled", GENERATE) == pytest.approx(ledger.of(10), rel=CLOSE)
        assert it.wasted("expired", GENERATE) == 0.0
        assert it.spent(GENERATE) == pytest.approx(ledger.total, rel=CLOSE)


async def test_calls_that_are_answered_or_fail_waste_nothing(tmp_path: Path) -> None:
    """What came of it was an answer, or the model's own failure; neither was for nobody."""
    ledger = Ledger()
    async with serving(tmp_path, BurningEncoder(ledger, TOKEN_SECONDS)) as it:
        calls = [it.embed(text(10, 5)), it.embed(text(POISON, 5)), it.embed(text(11, 5), text(POISON, 5))]
        assert [await status(call) for call in calls] == ["OK", "INTERNAL", "INTERNAL"]
        await it.quiet()
        assert (it.wasted("cancelled"), it.wasted("expired")) == (0.0, 0.0)
        assert it.spent() == pytest.approx(ledger.total, rel=CLOSE)


@pytest.mark.parametrize("texts", [2, 100], ids=["on the event loop", "on a thread"])
async def test_tokenizing_of_a_call_that_is_given_up_is_wasted(tmp_path: Path, texts: int) -> None:
    """Reading the texts of a call counts too, also if its caller has gone while a thread was still reading."""
    burned: list[float] = []
    ledger, gate, reading = Ledger(), Gate(), threading.Event()
    encoder = BurningEncoder(ledger, 0)
    encoder.on_run = lambda _: gate()
    async with serving(tmp_path, encoder) as it:

        def read() -> None:
            reading.set()
            if texts > 64:
                gate()
            burned.append(burn(READING_SECONDS))

        it.tokenizer.on_encode = read
        call = it.embed(*["10"] * texts)
        end = asyncio.ensure_future(status(call))
        await it.until(reading.is_set)
        await gate.entered()
        call.cancel()
        await it.until(lambda: it.ended("CANCELLED") == 1)
        gate.open()
        assert await end == "CANCELLED"
        await it.until(lambda: it.wasted("cancelled") > 0)
        await it.quiet()
        assert it.wasted("cancelled") == pytest.approx(sum(burned), rel=CLOSE)
