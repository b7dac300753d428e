"""Invariants 5 and 7 at the door: what is over a limit never queues, and what nobody waits for never runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from fakes import EchoModel, Gate
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import DeadlineExceededError, InvalidRequestError, QueueFullError
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.metrics import Metrics
from headwaiter_server.pipeline import GenerationReply, GenerationRequest, Pipeline
from headwaiter_server.scheduling.admission import Admission
from headwaiter_server.scheduling.calls import NO_DEADLINE, Terms

from .scheduler import Scheduler, scheduler

MAX_TEXTS = 3
MAX_NEW_TOKENS = 50


class NumberTokenizer:
    """Reads a text of numbers as those token ids."""

    def encode_all(self, texts: list[str], field: str) -> list[Encoding]:
        return [Encoding([int(word) for word in text.split()]) for text in texts]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


@dataclass
class Door:
    """A pipeline before a scheduler."""

    parts: Scheduler
    pipeline: Pipeline
    admission: Admission = field(default_factory=lambda: Admission(max_calls=100, max_bytes=1000, max_texts=5))

    async def generate(
        self, *texts: str, max_new_tokens: int = 0, deadline_seconds: float = NO_DEADLINE
    ) -> GenerationReply:
        """Send one call."""
        now = self.pipeline.clock()
        with self.admission.admit(1) as permit:
            request = GenerationRequest("", 0, list(texts), Decoding(max_new_tokens))
            return await self.pipeline.generate(permit, Terms(now, now + deadline_seconds), request)

    async def idle(self) -> None:
        """Return when nothing waits or runs any more."""
        async with asyncio.timeout(10):
            while self.parts.lane.waiting or self.parts.lane.running or self.parts.dispatcher.busy_workers:
                await asyncio.sleep(0)


@asynccontextmanager
async def door(model: EchoModel | None = None, *, rows: int = 8) -> AsyncIterator[Door]:
    """A pipeline that serves one echo model."""
    async with scheduler(model, rows=rows) as parts:
        manifest = bundle_pb2.Manifest(
            task=bundle_pb2.TASK_GENERATE, limits=bundle_pb2.Limits(max_new_tokens=MAX_NEW_TOKENS)
        )
        catalog = Catalog()
        catalog.add(ServedModel("m", 1, "fp32", manifest, cast("Any", NumberTokenizer()), parts.lane))
        yield Door(parts, Pipeline(catalog, parts.dispatcher, Metrics(), MAX_TEXTS))


async def test_call_within_its_limits_is_answered() -> None:
    """As many texts and new tokens as are allowed are answered, each text with its own."""
    async with door() as it:
        reply = await it.generate("5 6", "7", "8 9 10", max_new_tokens=MAX_NEW_TOKENS)
        assert [each.text for each in reply.texts] == ["5 6", "7", "8 9 10"]


@pytest.mark.parametrize(
    ("texts", "max_new_tokens", "named", "limit"),
    [
        (["5"] * (MAX_TEXTS + 1), 0, "texts", str(MAX_TEXTS)),
        (["5"], MAX_NEW_TOKENS + 1, "max_new_tokens", str(MAX_NEW_TOKENS)),
        ([], 0, "texts", "at least one"),
    ],
    ids=["too many texts", "too many new tokens", "no text"],
)
async def test_call_over_a_limit_never_queues(texts: list[str], max_new_tokens: int, named: str, limit: str) -> None:
    """A call over a limit is refused with the field and the limit, and none of its texts ever waits or runs."""
    async with door() as it:
        with pytest.raises(InvalidRequestError) as refused:
            await it.generate(*texts, max_new_tokens=max_new_tokens)
        assert refused.value.field == named
        assert limit in refused.value.description
        assert it.parts.lane.waiting == 0
        await it.idle()
        assert it.parts.model.joins == []
        assert it.admission.calls == 0


async def test_call_without_room_for_all_its_texts_never_queues() -> None:
    """Over the bound on texts a call is refused whole; once others are answered, it is taken."""
    gate = Gate()
    async with door(EchoModel(on_step=gate), rows=1) as it:
        held = asyncio.create_task(it.generate("10", "11", "12"))
        await gate.entered()
        waiting = it.parts.lane.waiting
        try:
            async with asyncio.timeout(10):
                with pytest.raises(QueueFullError):
                    await it.generate("20", "21", "22")
            assert it.parts.lane.waiting == waiting
        finally:
            gate.open()
        await held
        assert [each.text for each in (await it.generate("20", "21", "22")).texts] == ["20", "21", "22"]


async def test_many_short_texts_are_tokenized_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of few texts is tokenized at once, without a thread; one of many does not hold the loop."""
    threaded: list[int] = []

    async def to_thread(encode: Callable[[], list[Encoding]]) -> list[Encoding]:
        encodings = encode()
        threaded.append(len(encodings))
        return encodings

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    async with door() as it:
        it.pipeline.max_texts = 1000
        it.admission = Admission(max_calls=1, max_bytes=1000)
        await it.generate(*["5"] * 32)
        assert threaded == []
        await it.generate(*["5"] * 100)
        # They are read, and then what came of them is worded.
        assert threaded == [100, 100]


@pytest.mark.parametrize("deadline_seconds", [NO_DEADLINE, 600.0], ids=["no deadline", "deadline"])
async def test_text_of_a_caller_who_has_gone_never_runs(deadline_seconds: float) -> None:
    """A call that is cancelled while its text waits, long before any deadline, costs the model nothing."""
    gate = Gate()
    async with door(EchoModel(on_step=gate), rows=1) as it:
        running = asyncio.create_task(it.generate("10 11"))
        await gate.entered()
        gone, stays = (
            asyncio.create_task(it.generate("20", deadline_seconds=deadline_seconds)),
            asyncio.create_task(it.generate("30")),
        )
        while it.parts.lane.waiting < 2:
            await asyncio.sleep(0)
        gone.cancel()
        gate.open()
        assert [(await call).texts[0].text for call in (running, stays)] == ["10 11", "30"]
        await it.idle()
        assert it.parts.model.joins == [[10, 11], [30]]
        assert it.admission.calls == 0


async def test_text_whose_deadline_passes_while_it_waits_never_runs() -> None:
    """A call whose deadline passes in the queue is answered at that moment and costs the model nothing."""
    gate = Gate()
    async with door(EchoModel(on_step=gate), rows=1) as it:
        running = asyncio.create_task(it.generate("10 11"))
        await gate.entered()
        with pytest.raises(DeadlineExceededError):
            await it.generate("20", deadline_seconds=0.01)
        gate.open()
        assert (await running).texts[0].text == "10 11"
        await it.idle()
        assert it.parts.model.joins == [[10, 11]]
