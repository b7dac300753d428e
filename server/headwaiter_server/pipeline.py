"""A request's way from text to answer, the same for every protocol that asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import DeadlineExceededError, InvalidRequestError
from headwaiter_server.generation.sequence import FinishReason, Generated, GenerationTask
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.metrics import Metrics
from headwaiter_server.scheduling.admission import Permit
from headwaiter_server.scheduling.calls import NO_DEADLINE, Call, Pending, Terms
from headwaiter_server.scheduling.dispatcher import Dispatcher

# Above this many bytes of text, or texts, the tokenizer runs on a thread: it releases the interpreter lock, and the
# event loop must never be held for longer than a few milliseconds by one call. A thread costs about 0.1 ms, this many
# words take six times that.
_INLINE_TEXT_BYTES = 16_384
_INLINE_TEXTS = 64


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request to generate, in plain Python.

    Attributes:
        model: Name, or "".
        version: Version, or 0.
        texts: What to generate from.
        max_new_tokens: Limit for each text; 0 for the model's.
    """

    model: str
    version: int
    texts: Sequence[str]
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """The answer for one text."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    source_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a call's time went; of several texts the largest of each."""

    tokenize_seconds: float
    queue_seconds: float
    inference_seconds: float
    batch_size: int
    batch_tokens: int
    batch_id: int


@dataclass(frozen=True, slots=True)
class GenerationReply:
    """The answer to a `GenerationRequest`, texts in order."""

    model: ServedModel
    texts: list[GeneratedText]
    timings: Timings


class Pipeline:
    """Validates, tokenizes, submits and answers."""

    def __init__(self, catalog: Catalog, dispatcher: Dispatcher, metrics: Metrics, max_texts: int) -> None:
        self._catalog = catalog
        self._dispatcher = dispatcher
        self._metrics = metrics
        self.max_texts = max_texts

    @property
    def clock(self) -> Callable[[], float]:
        """The scheduler's clock, on which `Terms` count."""
        return self._dispatcher.clock

    def find(self, name: str, version: int) -> ServedModel:
        """The model that a request asks for; see `Catalog.find`."""
        return self._catalog.find(name, version)

    def models(self) -> list[ServedModel]:
        """Every model that is loaded."""
        return self._catalog.all()

    async def generate(self, permit: Permit, terms: Terms, request: GenerationRequest) -> GenerationReply:
        """Generate from each text of a request.

        Args:
            permit: Proof of admission, which counts the texts; held by the caller until the answer is out.
            terms: What the caller asked of the scheduler.
            request: The request.

        Raises:
            RequestError: The request is answered with an error.
        """
        model = self._catalog.find(request.model, request.version)
        limit = self._new_tokens_limit(model, request.max_new_tokens)
        started = self.clock()
        self._check_count(len(request.texts))
        permit.hold_texts(len(request.texts))
        encodings = await self._encode(model, list(request.texts))
        submitted = self.clock()
        results = await self._run(model, terms, submitted, [GenerationTask(each, limit) for each in encodings])
        self._metrics.tokens(
            model.name,
            source=sum(map(len, encodings)),
            generated=sum(len(result.token_ids) for result in results),
        )
        return GenerationReply(
            model,
            [
                GeneratedText(
                    model.tokenizer.decode(result.token_ids), result.token_ids, result.finish_reason, len(source)
                )
                for source, result in zip(encodings, results, strict=True)
            ],
            Timings(
                tokenize_seconds=submitted - started,
                queue_seconds=max(result.queue_seconds for result in results),
                inference_seconds=max(result.inference_seconds for result in results),
                batch_size=max(result.batch_size for result in results),
                batch_tokens=max(result.batch_tokens for result in results),
                batch_id=min(result.batch_id for result in results),
            ),
        )

    def _new_tokens_limit(self, model: ServedModel, asked: int) -> int:
        limit = model.manifest.limits.max_new_tokens
        if asked > limit:
            raise InvalidRequestError("max_new_tokens", f"is {asked}, the limit of model {model.name!r} is {limit}")
        return asked or limit

    def _check_count(self, count: int) -> None:
        if not count:
            raise InvalidRequestError("texts", "is empty: send at least one text")
        if count > self.max_texts:
            raise InvalidRequestError("texts", f"has {count} entries, the limit is {self.max_texts}")

    async def _encode(self, model: ServedModel, texts: list[str]) -> list[Encoding]:
        def encode() -> list[Encoding]:
            return [model.tokenizer.encode(text, f"texts[{index}]") for index, text in enumerate(texts)]

        if len(texts) > _INLINE_TEXTS or sum(map(len, texts)) > _INLINE_TEXT_BYTES:
            return await asyncio.to_thread(encode)
        return encode()

    async def _run(
        self, model: ServedModel, terms: Terms, submitted: float, tasks: list[GenerationTask]
    ) -> list[Generated]:
        """Submit the texts and wait; the call is over when this returns, however it returns."""
        call: Call[Generated] = Call(terms, len(tasks), submitted, asyncio.get_running_loop().create_future())
        model.lane.submit([Pending(call, index, task, len(task.source)) for index, task in enumerate(tasks)])
        self._dispatcher.wake()
        if terms.deadline == NO_DEADLINE:
            return await call.future
        try:
            async with asyncio.timeout(terms.deadline - submitted):
                return await call.future
        except TimeoutError:
            raise DeadlineExceededError("the deadline passed before the answer was there") from None
