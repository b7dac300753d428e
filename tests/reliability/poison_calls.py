"""Calls of which some are poisoned, and whether each got what is its own."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

import grpc
import numpy as np
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from headwaiter_proto.inference import grpc_service_pb2 as open_inference
from headwaiter_proto.v1 import inference_pb2
from numpy.typing import NDArray
from reliability.poison_models import ENCODERS, NAN, RAISING, TENSORS, WORDS, expected

POISONED = 0.01
_CALLERS = 64
_CONNECTIONS = 4
_EMBED = "/headwaiter.v1.InferenceService/Embed"
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_OPAQUE = re.compile(r"internal error ([0-9a-f]{16})")
_MOST_WORDS, _MOST_ROWS, _WIDTH = 8, 3, 4
_NO_NUMBERS = (np.nan, np.inf, -np.inf)
_MOST_EXAMPLES = 5

_Method = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


@dataclass
class Tally:
    """What callers got.

    Attributes:
        healthy: Healthy requests.
        wrong: Those of them that failed, or got another answer than their own.
        poisoned: The others.
        unlike: Those of them that got anything else than they should.
        ids: Of the errors, as callers were told them.
        shared: Healthy requests that were answered in a run with others.
        examples: What was wrong, some of it.
    """

    healthy: int = 0
    wrong: int = 0
    poisoned: int = 0
    unlike: int = 0
    ids: Counter[str] = field(default_factory=Counter)
    shared: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def reused_ids(self) -> int:
        """Errors with the id of another."""
        return self.ids.total() - len(self.ids)

    def count(self, *, poisoned: bool, right: bool, got: object) -> None:
        """Count one request, and keep what it got if that is wrong."""
        if poisoned:
            self.poisoned += 1
            self.unlike += not right
        else:
            self.healthy += 1
            self.wrong += not right
        if not right and len(self.examples) < _MOST_EXAMPLES:
            self.examples.append(repr(got))


class Caller(Protocol):
    """Sends requests of one kind."""

    async def ask(self, channel: grpc.aio.Channel, dice: Random, tally: Tally) -> None:
        """Send one, and count what comes of it."""
        ...


class Texts:
    """Asks encoders, some of whose texts make any run fail that they are in; implements `Caller`."""

    async def ask(self, channel: grpc.aio.Channel, dice: Random, tally: Tally) -> None:
        """See `Caller`."""
        words = dice.choices(range(1, len(WORDS) + 1), k=dice.randint(1, _MOST_WORDS))
        text = [WORDS[word - 1] for word in words]
        poisoned = dice.random() < POISONED
        if poisoned:
            text.insert(dice.randrange(len(text) + 1), dice.choice((NAN, RAISING)))
        request = inference_pb2.EmbedRequest(
            model=dice.choice(tuple(ENCODERS)), texts=[" ".join(text)], normalize=False
        )
        method: _Method = channel.unary_unary(_EMBED)
        try:
            reply = inference_pb2.EmbedResponse.FromString(await method(request.SerializeToString()))
        except grpc.aio.AioRpcError as error:
            tally.count(poisoned=poisoned, right=poisoned and _is_masked(error, tally), got=error)
            return
        vector = np.frombuffer(reply.vectors, np.float32).tolist()
        tally.count(poisoned=poisoned, right=not poisoned and vector == expected(words), got=(text, vector))
        tally.shared += reply.timings.batch_size > 1


class Rows:
    """Sends rows of numbers, and of what is none; implements `Caller`."""

    def __init__(self, *, refused: bool) -> None:
        """Set up.

        Args:
            refused: Whether the server is to refuse what is no number.
        """
        self._refused = refused

    async def ask(self, channel: grpc.aio.Channel, dice: Random, tally: Tally) -> None:
        """See `Caller`."""
        # Small whole numbers: whatever is computed of them is exact.
        rows = [[float(dice.randint(-99, 99)) for _ in range(_WIDTH)] for _ in range(dice.randint(1, _MOST_ROWS))]
        poisoned = dice.random() < POISONED
        if poisoned:
            dice.choice(rows)[dice.randrange(_WIDTH)] = dice.choice(_NO_NUMBERS)
        given, model = np.array(rows, np.float32), dice.choice(TENSORS)
        request = open_inference.ModelInferRequest(model_name=model)
        tensor = request.inputs.add(name="x", datatype="FP32", shape=given.shape)
        if dice.random() < 0.5:
            tensor.contents.fp32_contents.extend(given.ravel().tolist())
        else:
            request.raw_input_contents.append(given.tobytes())
        method: _Method = channel.unary_unary(_INFER)
        call = method(request.SerializeToString())
        try:
            reply = open_inference.ModelInferResponse.FromString(await call)
        except grpc.aio.AioRpcError as error:
            right = poisoned and self._refused and _names_the_tensor(error)
            tally.count(poisoned=poisoned, right=right, got=error)
            return
        answers = {
            each.name: np.frombuffer(raw, np.float32).reshape(tuple(each.shape))
            for each, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
        }
        right = _are_their_own(given, answers) and not (poisoned and self._refused)
        tally.count(poisoned=poisoned, right=right, got=(given, answers))
        told = dict(await call.trailing_metadata())
        tally.shared += int(told["headwaiter-batch-size"]) > len(rows)


async def ask_all(target: str, caller: Caller, count: int, seed: int, watch: Callable[[], None]) -> Tally:
    """Have many callers send requests, each its next one when its last has ended.

    Args:
        target: The server.
        caller: Sends one.
        count: How many requests.
        seed: Of what they are.
        watch: Called after each.
    """
    tally, left = Tally(), iter(range(count))
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(_CONNECTIONS)]

    async def ask(number: int) -> None:
        dice = Random(f"{seed} {number}")
        for _ in left:
            await caller.ask(channels[number % _CONNECTIONS], dice, tally)
            watch()

    await asyncio.gather(*(ask(number) for number in range(_CALLERS)))
    for each in channels:
        await each.close()
    return tally


def _is_masked(error: grpc.aio.AioRpcError, tally: Tally) -> bool:
    """Whether a caller was told that the server failed, an id, and nothing else."""
    match = _OPAQUE.fullmatch(error.details() or "")
    if error.code() is not grpc.StatusCode.INTERNAL or match is None:
        return False
    tally.ids[match[1]] += 1
    detail = _detail(error)
    info = error_details_pb2.RequestInfo()
    return bool(detail.Unpack(info)) and info.request_id == match[1]


def _names_the_tensor(error: grpc.aio.AioRpcError) -> bool:
    detail = _detail(error)
    request = error_details_pb2.BadRequest()
    if error.code() is not grpc.StatusCode.INVALID_ARGUMENT or not detail.Unpack(request):
        return False
    return [each.field for each in request.field_violations] == ["inputs[x].contents"]


def _detail(error: grpc.aio.AioRpcError) -> any_pb2.Any:
    told: dict[str, Any] = dict(error.trailing_metadata() or ())
    details = status_pb2.Status.FromString(told.get("grpc-status-details-bin", b"")).details
    return details[0] if len(details) == 1 else any_pb2.Any()


def _are_their_own(given: NDArray[np.float32], answers: dict[str, NDArray[np.float32]]) -> bool:
    """Whether answers are those that the rows get alone, to the last bit but for the bits of NaN."""
    with np.errstate(invalid="ignore"):
        right = (
            {"y": given + 0 * given.sum()} if "y" in answers else {"double": given + given, "sum": given.sum(axis=1)}
        )
    return all(np.array_equal(answers[name], each, equal_nan=True) for name, each in right.items())
