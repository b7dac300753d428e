"""What all tasks share: find the model, count, tokenize, submit, wait, sum up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.batching.lane import EncoderLane
from headwaiter_server.batching.task import Answer, EncodingTask
from headwaiter_server.config import NonfiniteInputs
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import DeadlineExceededError, InvalidRequestError
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel, task_name
from headwaiter_server.metrics import Metrics
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.pipeline.cache import ResponseCache, Shelf, Sourced
from headwaiter_server.pipeline.remembering import Measured, kind_of
from headwaiter_server.scheduling.admission import Permit
from headwaiter_server.scheduling.calls import NO_DEADLINE, Call, Pending, Result, Terms
from headwaiter_server.scheduling.dispatcher import Dispatcher
from headwaiter_server.scheduling.spending import Spending

# Above this many characters of text, or texts, the tokenizer runs on a thread: it releases the interpreter lock, and
# the event loop must never be held for longer than a few milliseconds by one call. A thread costs about 0.1 ms, this
# many words take six times that.
_INLINE_CHARACTERS = 16_384
_INLINE_TEXTS = 64

Read = TypeVar("Read")


Task = TypeVar("Task", bound=Sourced)
TaskIn = TypeVar("TaskIn", bound=Sourced)


class Lane(Protocol[TaskIn, Result]):
    """Where the texts of one model wait."""

    def submit(self, entries: list[Pending[TaskIn, Result]]) -> None:
        """Queue the texts of a call."""
        ...


class Telling(Protocol[Result]):
    """Who tells a caller of answers while they come."""

    def open(self, terms: Terms, size: int, submitted: float, future: asyncio.Future[list[Result]]) -> Call[Result]:
        """The call that is answered; see `Call`."""
        ...

    async def tell(self, future: asyncio.Future[list[Result]]) -> list[Result]:
        """Tell everything, as it comes.

        Args:
            future: What the call is answered with; nobody waits for it any more when this ends, however it does.

        Returns:
            The answers, when all is told; when they were there, the call's trail says.
        """
        ...


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a call's time went; of several texts the largest of each. Answers that were remembered took none."""

    tokenize_seconds: float
    queue_seconds: float
    inference_seconds: float
    batch_size: int
    batch_tokens: int
    batch_id: int

    @classmethod
    def of(cls, tokenize_seconds: float, results: Collection[Measured]) -> Timings:
        """Sum up the results of a call."""
        return cls(
            tokenize_seconds=tokenize_seconds,
            queue_seconds=max(result.queue_seconds for result in results),
            inference_seconds=max(result.inference_seconds for result in results),
            batch_size=max(result.batch_size for result in results),
            batch_tokens=max(result.batch_tokens for result in results),
            batch_id=min([result.batch_id for result in results if result.batch_id], default=0),
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """How the texts of a call were read.

    Attributes:
        tokens: Tokens of each text, special tokens included.
        truncated: Indices of the texts that were cut at the model's limit, ascending.
    """

    tokens: list[int]
    truncated: list[int]


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of the texts of a call to an encoder.

    Attributes:
        values: The model's answer for each text.
        sources: The texts' tokens.
        reading: How they were read.
        timings: Where the time went.
    """

    values: list[FloatArray]
    sources: list[Encoding]
    reading: Reading
    timings: Timings


@dataclass(frozen=True, slots=True)
class _Claimed:
    """A model that a call works with; implements `Kept`."""

    model: ServedModel

    def take(self) -> None:
        """See `Kept`."""
        self.model.leases.take()

    def release(self) -> None:
        """See `Kept`."""
        self.model.leases.release()


class Core:
    """Finds models, counts, tokenizes, submits and waits, for every task."""

    def __init__(
        self,
        catalog: Catalog,
        dispatcher: Dispatcher,
        metrics: Metrics,
        max_texts: int,
        cache: ResponseCache | None = None,
        nonfinite_inputs: NonfiniteInputs = "pass",
    ) -> None:
        """Set up.

        Args:
            catalog: The models.
            dispatcher: Runs them.
            metrics: Where what was done is recorded.
            max_texts: Most texts of a call.
            cache: Remembers answers; None if none is.
            nonfinite_inputs: What becomes of tensors that hold a NaN or an infinity.
        """
        self._catalog = catalog
        self._dispatcher = dispatcher
        self._cache = cache
        self.metrics = metrics
        self.max_texts = max_texts
        self.nonfinite_inputs = nonfinite_inputs

    @property
    def clock(self) -> Callable[[], float]:
        """The scheduler's clock, on which `Terms` count."""
        return self._dispatcher.clock

    def claim(self, permit: Permit, name: str, version: int, task: bundle_pb2.Task | None = None) -> ServedModel:
        """The model that a request asks for, kept until the call is over; for work that will run.

        Whoever has claimed a version claims the same model again, although others may find another one by now.

        Args:
            permit: The call's.
            name: See `find`.
            version: See `find`.
            task: See `find`.

        Raises:
            UnknownModelError: There is none.
            InvalidRequestError: It does something else.
        """
        for kept in permit.kept:
            if isinstance(kept, _Claimed) and (kept.model.name, kept.model.version) == (name, version):
                return _doing(kept.model, task)
        model = self.find(name, version, task)
        permit.keep(_Claimed(model))
        return model

    def find(self, name: str, version: int, task: bundle_pb2.Task | None = None) -> ServedModel:
        """The model that a request asks for, to look at; before its call is over it may be gone.

        Args:
            name: Its name; empty when the server holds exactly one.
            version: Its version; 0 for the highest.
            task: What it must do; None for anything.

        Raises:
            UnknownModelError: There is none.
            InvalidRequestError: It does something else.
        """
        return _doing(self._catalog.find(name, version), task)

    def models(self) -> list[ServedModel]:
        """Every model that is loaded."""
        return self._catalog.all()

    def hold(self, permit: Permit, texts: Sequence[str]) -> None:
        """Check the number of texts, and let the permit count them.

        Raises:
            InvalidRequestError: There are none, or too many.
            QueueFullError: Too many are held already.
        """
        if not texts:
            raise InvalidRequestError("texts", "is empty: send at least one text")
        if len(texts) > self.max_texts:
            raise InvalidRequestError("texts", f"has {len(texts)} entries, the limit is {self.max_texts}")
        permit.hold_texts(len(texts))

    async def read(self, spending: Spending, read: Callable[[], Read], texts: int, characters: int) -> Read:
        """Do what takes a time for each character here or, where that would be long, on a thread.

        Args:
            spending: Charged with it, also when its caller has gone meanwhile.
            read: Does it.
            texts: How many it reads.
            characters: Of all of them.
        """
        if texts > _INLINE_TEXTS or characters > _INLINE_CHARACTERS:
            return await asyncio.to_thread(partial(_charging_from_thread, spending, read, asyncio.get_running_loop()))
        began = time.thread_time()
        try:
            return read()
        finally:
            spending.add(time.thread_time() - began)

    async def infer(
        self,
        model: ServedModel,
        terms: Terms,
        encode: Callable[[], list[Encoding]],
        texts: int,
        characters: int,
        *,
        raw: bool,
    ) -> Answered:
        """Have an encoder answer each text.

        Args:
            model: The model.
            terms: What the caller asked of the scheduler.
            encode: Tokenizes the texts.
            texts: How many there are.
            characters: Of all of them.
            raw: Whether the answers wanted are those before normalising, softmax or sigmoid.

        Raises:
            RequestError: What answered the call, if it was no result.
        """
        lane, started = cast("EncoderLane", model.lane), self.clock()
        if terms.deadline <= started:
            raise DeadlineExceededError("the deadline passed before the texts were tokenized")
        if self._cache is None or self._cache.shelf(lane) is None:  # what is remembered need not wait
            lane.foresee(terms, texts)
        sources = await self.read(terms.spending, encode, texts, characters)
        submitted = self.clock()
        tokens = [len(source) for source in sources]
        terms.trail.read(started, submitted, sum(tokens))
        tasks = [EncodingTask(source, raw) for source in sources]
        answers = await self.run(cast("Lane[EncodingTask, Answer]", lane), terms, submitted, tasks)
        self.metrics.tokens(model.name, source=sum(tokens), generated=0)
        # Texts of one call that shared a run have the same times.
        runs = {answer.batch_id: answer for answer in answers}.values()
        return Answered(
            [answer.values for answer in answers],
            sources,
            Reading(tokens, [index for index, source in enumerate(sources) if source.truncated]),
            Timings.of(submitted - started, runs),
        )

    async def run(
        self,
        lane: Lane[Task, Result],
        terms: Terms,
        submitted: float,
        tasks: Sequence[Task],
        *,
        remembered: bool = True,
        telling: Telling[Result] | None = None,
    ) -> list[Result]:
        """Submit the texts and wait; the call is over when this returns, however it returns.

        Args:
            lane: Where the model's texts wait.
            terms: What the caller asked of the scheduler.
            submitted: Now, on the scheduler's clock.
            tasks: The texts.
            remembered: Whether the answers are those that the same texts have always.
            telling: Tells the caller of the answers while they come; None where it waits for all of them.

        Raises:
            RequestError: What answered the call, if it was no result.
        """
        if terms.deadline <= submitted:
            raise DeadlineExceededError("the deadline passed before the texts were tokenized")
        future: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()
        call = (Call if telling is None else telling.open)(terms, len(tasks), submitted, future)
        if self._cache is None or not remembered or (shelf := self._cache.shelf(lane)) is None:
            lane.submit([Pending(call, index, task, len(task.source)) for index, task in enumerate(tasks)])
        else:
            submitted = await self._ask(shelf, call, tasks, lane)
        terms.trail.submitted = submitted
        self._dispatcher.wake()
        answer = future if telling is None else telling.tell(future)
        if terms.deadline == NO_DEADLINE:
            results = await answer
        else:
            try:
                async with asyncio.timeout(terms.deadline - submitted):
                    results = await answer
            except TimeoutError:
                raise DeadlineExceededError("the deadline passed before the answer was there") from None
        if telling is None:
            terms.trail.answered = self.clock()
        return results

    async def _ask(
        self, shelf: Shelf[Any], call: Call[Result], tasks: Sequence[Task], lane: Lane[Task, Result]
    ) -> float:
        """Look for a call's texts among the answers of its model, and submit those that are not there.

        Returns:
            When they were submitted.
        """
        kind = kind_of(tasks[0])
        characters = sum(map(kind.characters, tasks))
        digests = await self.read(
            call.terms.spending, lambda: [kind.digest(task) for task in tasks], len(tasks), characters
        )
        call.submitted = submitted = self.clock()
        shelf.ask(call, tasks, digests, kind, lane.submit)
        return submitted


def _doing(model: ServedModel, task: bundle_pb2.Task | None) -> ServedModel:
    """A model, if it does what it must.

    Raises:
        InvalidRequestError: It does something else.
    """
    if task is not None and model.manifest.task != task:
        raise InvalidRequestError("model", f"{model.name!r} is a model to {model.task}, not to {task_name(task)}")
    return model


def _charging_from_thread(spending: Spending, read: Callable[[], Read], loop: asyncio.AbstractEventLoop) -> Read:
    """Do it on this thread, and charge it on the event loop's; a loop that is closed has nobody left to tell."""
    began = time.thread_time()
    try:
        return read()
    finally:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(spending.add, time.thread_time() - began)
