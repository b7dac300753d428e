"""Texts to generated texts: whole, or piece by piece."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.generation.sequence import Generated, GenerationTask, Progress
from headwaiter_server.generation.texts import TextStream
from headwaiter_server.pipeline.core import Core, Lane, Timings
from headwaiter_server.pipeline.generated import GeneratedText, GenerationReply, GenerationRequest
from headwaiter_server.pipeline.pieces import Pieces, TakePieces
from headwaiter_server.pipeline.remembering import LIKELY_BYTES, TOKEN_BYTES
from headwaiter_server.pipeline.wording import Wording
from headwaiter_server.scheduling.admission import Permit
from headwaiter_server.scheduling.calls import Terms

# What is told of a token, or of one that was likely at its place, takes as long to be worded, and as long again to be
# written, as so many characters take to be tokenized.
_CHARACTERS_FOR_A_TOKEN = 8
# A seed that every protocol's integers hold.
_SEED_BITS = 63
# A whole answer is there three times at its end: as it was generated, as a message, and as the message's bytes.
_FORMS_OF_AN_ANSWER = 3
_WEIGHT_BYTES = 4
_FEWER = "fewer texts, or a smaller max_new_tokens, take less"


async def generate(core: Core, permit: Permit, terms: Terms, request: GenerationRequest) -> GenerationReply:
    """Generate from each text of a request."""
    asked = await _read(core, permit, terms, request, streamed=False)
    results = await asked.run([asked.task(index, stream=bool(request.decoding.stop)) for index in asked.indices])
    wording = asked.wording

    def word() -> list[GeneratedText]:
        return [wording.text(index, result, logprobs=True) for index, result in enumerate(results)]

    told = sum([len(each.token_ids) for each in results]) * (1 + (request.decoding.logprobs or 0))
    characters = told * _CHARACTERS_FOR_A_TOKEN
    texts = await core.read(terms.spending, word, len(results), characters)
    return GenerationReply(wording.model, texts, wording.timings(results), characters)


async def generate_stream(
    core: Core, permit: Permit, terms: Terms, request: GenerationRequest, take: TakePieces
) -> Timings:
    """Generate from each text of a request, and tell of it while it comes.

    Args:
        core: Does what all tasks share.
        permit: See `Pipeline`.
        terms: See `Pipeline`.
        request: The request.
        take: Told of pieces.

    Returns:
        Where the time went, as `take` was told with the last pieces.
    """
    asked = await _read(core, permit, terms, request, streamed=True)
    pieces = Pieces(asked.wording, take, core.clock)
    tasks = [asked.task(index, stream=True, watch=partial(pieces.watch, index)) for index in asked.indices]
    return asked.wording.timings(await asked.run(tasks, pieces))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request whose texts have been read.

    Attributes:
        core: Does what all tasks share.
        terms: What the caller asked of the scheduler.
        lane: Where the texts wait.
        decoding: What is asked of all texts.
        wording: The texts, with what is asked of each, and what will be told of them.
        submitted: When they had been read, on the scheduler's clock.
    """

    core: Core
    terms: Terms
    lane: GenerationLane
    decoding: Decoding
    wording: Wording
    submitted: float

    @property
    def indices(self) -> range:
        """Of the texts."""
        return range(len(self.wording.sources))

    def task(self, index: int, *, stream: bool, watch: Callable[[Progress], None] | None = None) -> GenerationTask:
        """What the lane is asked for one text.

        Args:
            index: Which.
            stream: Whether its text is wanted, or looked at, while it is generated.
            watch: Told of it.

        Raises:
            InvalidRequestError: It could never run.
        """
        source, decoding = self.wording.sources[index], self.wording.decodings[index]
        if decoding.num_beams > 1:  # which has no text before its end
            task = GenerationTask(source, decoding)
        else:
            tokenizer = self.wording.model.tokenizer
            text = TextStream(tokenizer.decode, decoding.stop, **tokenizer.detokenizing) if stream else None
            task = GenerationTask(source, decoding, text, watch)
        self.lane.check(task, f"texts[{index}]")
        return task

    async def run(self, tasks: list[GenerationTask], pieces: Pieces | None = None) -> list[Generated]:
        """Have the texts generated.

        Args:
            tasks: One for each text.
            pieces: Tells of them while they come.
        """
        decoding = self.decoding
        # Chance that nobody chose is for one call. What tokens attended to is a thousand times as large as they are.
        remembered = (decoding.deterministic or decoding.seed is not None) and not decoding.attention
        lane = cast("Lane[GenerationTask, Generated]", self.lane)
        results = await self.core.run(lane, self.terms, self.submitted, tasks, remembered=remembered, telling=pieces)
        self.core.metrics.tokens(
            self.wording.model.name,
            source=sum(map(len, self.wording.sources)),
            generated=sum([len(result.token_ids) for result in results]),
        )
        return results


async def _read(core: Core, permit: Permit, terms: Terms, request: GenerationRequest, *, streamed: bool) -> _Asked:
    """Find the model, and read the texts of a request, of whose answer the permit counts what is out of the ordinary.

    Raises:
        RequestError: It asks for what cannot be done.
    """
    model = core.claim(permit, request.model, request.version, bundle_pb2.TASK_GENERATE)
    lane = cast("GenerationLane", model.lane)
    decoding, limits = request.decoding, model.manifest.limits
    if decoding.max_new_tokens > limits.max_new_tokens:
        raise InvalidRequestError(
            "max_new_tokens",
            f"is {decoding.max_new_tokens}, the limit of model {model.name!r} is {limits.max_new_tokens}",
        )
    (decoding if decoding.max_new_tokens else replace(decoding, max_new_tokens=limits.max_new_tokens)).check(
        lane.model.vocab_size
    )
    if decoding.attention and lane.model.start_id is None:
        raise InvalidRequestError("attention", f"is asked of model {model.name!r}, which has no encoder to attend to")
    started = core.clock()
    texts = list(request.texts)
    core.hold(permit, texts)

    def encode() -> list[Encoding]:
        return model.tokenizer.encode_all(texts, "texts")

    sources = await core.read(terms.spending, encode, len(texts), sum(map(len, texts)))
    submitted = core.clock()
    terms.trail.read(started, submitted, sum(map(len, sources)))
    decodings = [_of_text(decoding, limits, len(source), index) for index, source in enumerate(sources)]
    _hold(permit, model.manifest.kv_cache, sources, decodings, streamed=streamed)
    wording = Wording(model, sources, decodings, terms.arrived, submitted - started)
    return _Asked(core, terms, lane, decoding, wording, submitted)


def _hold(
    permit: Permit,
    geometry: bundle_pb2.KvCache,
    sources: Sequence[Encoding],
    decodings: Sequence[Decoding],
    *,
    streamed: bool,
) -> None:
    """Let the permit count what may be told of each token, which is much more than the token.

    Raises:
        InvalidRequestError: It is more than the server is ever set to hold.
        QueueFullError: It is more than there is room for now.
    """
    decoding = decodings[0]
    if decoding.logprobs is not None:
        # Pieces that were sent are gone; beams have none before their end.
        forms = 1 if streamed and decoding.num_beams == 1 else _FORMS_OF_AN_ANSWER
        tokens = sum([each.max_new_tokens for each in decodings]) * decoding.num_beams
        permit.hold_bytes(forms * tokens * (TOKEN_BYTES + LIKELY_BYTES * decoding.logprobs), "logprobs", _FEWER)
    if decoding.attention:
        pairs = sum([each.max_new_tokens * len(source) for source, each in zip(sources, decodings, strict=True)])
        weights = pairs * geometry.num_layers * geometry.num_heads
        permit.hold_bytes(_FORMS_OF_AN_ANSWER * weights * _WEIGHT_BYTES, "attention", _FEWER)


def _of_text(decoding: Decoding, limits: bundle_pb2.Limits, source_tokens: int, index: int) -> Decoding:
    """What is asked for one text, with what the request leaves to the server.

    Raises:
        InvalidRequestError: The model has no place for as many tokens.
    """
    most, total = limits.max_new_tokens, limits.max_total_tokens
    if total:
        room = total - source_tokens
        if room < max(1, decoding.max_new_tokens):
            what = f"{source_tokens} tokens, and together with what is generated from it the limit is {total}"
            if room < 1:
                raise InvalidRequestError(f"texts[{index}]", f"has {what}")
            raise InvalidRequestError("max_new_tokens", f"is {decoding.max_new_tokens}, but texts[{index}] has {what}")
        most = min(most, room)
    seed = None
    if not decoding.deterministic:
        seed = secrets.randbits(_SEED_BITS) if decoding.seed is None else decoding.seed
    return replace(decoding, max_new_tokens=decoding.max_new_tokens or most, seed=seed)
