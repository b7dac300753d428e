"""Calls to a model while its versions take turns, each answer held to the golden one of the version that it names."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
from headwaiter_proto.inference import grpc_service_pb2 as inference
from headwaiter_proto.v1 import inference_pb2
from numpy.typing import NDArray

from benchmarks.encoders.outcomes import poisson_schedule

_EMBED = "/headwaiter.v1.InferenceService/Embed"
_LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"
_PATIENT_SECONDS = 60.0
# An answer is right that is so near to the golden one; those of two versions are further apart.
_RIGHT = 2e-3
FURTHER_APART = 0.1


@dataclass(frozen=True)
class Golden:
    """What each version answers to each text.

    Attributes:
        texts: The texts.
        answers: Of each version, `(texts, dimension)`.
    """

    texts: list[str]
    answers: Mapping[int, NDArray[np.float32]]

    @classmethod
    def of(cls, model: Path, versions: tuple[int, int] = (1, 2)) -> Golden:
        """The golden answers of two versions of a model.

        Raises:
            ValueError: They are not far enough apart to tell which version has answered.
        """
        read = {}
        for version in versions:
            with np.load(model / str(version) / "golden.npz", allow_pickle=False) as archive:
                read[version] = (archive["texts"].tolist(), archive["unit_embedding"])
        (texts, one), (_, other) = read.values()
        if not (np.abs(one - other).max(axis=1) > FURTHER_APART).all():
            raise ValueError(f"the versions' answers are not {FURTHER_APART} apart on every text")
        return cls(texts, {version: answers for version, (_, answers) in read.items()})


@dataclass
class Seen:
    """What came of calls.

    Attributes:
        seconds: Of those that were answered, from when they were due.
        codes: How many ended with which status.
        wrong: How many answers were not those of the version that they name.
        versions: How many each version has answered.
    """

    seconds: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    versions: Counter[int] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Calls that were not answered."""
        return sum(count for code, count in self.codes.items() if code != "OK")

    def __add__(self, other: Seen) -> Seen:
        return Seen(
            self.seconds + other.seconds,
            self.codes + other.codes,
            self.wrong + other.wrong,
            self.versions + other.versions,
        )


class Caller:
    """Calls one model; as a context manager, so that its connection is closed."""

    def __init__(self, target: str, model: str, golden: Golden) -> None:
        self._model = model
        self._golden = golden
        self._requests = [
            inference_pb2.EmbedRequest(model=model, texts=[text]).SerializeToString() for text in golden.texts
        ]
        self._channel = grpc.aio.insecure_channel(target, options=[("grpc.enable_retries", 0)])
        self._embed: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_EMBED)
        self._load: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_LOAD)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def swap(self, version: int) -> float:
        """Have another version serve; how long that took."""
        began = time.perf_counter()
        request = inference.RepositoryModelLoadRequest(model_name=self._model)
        policy: dict[str, Any] = {"version_policy": {"specific": {"versions": [version]}}}
        request.parameters["config"].string_param = json.dumps(policy)
        await self._load(request.SerializeToString(), timeout=_PATIENT_SECONDS)
        return time.perf_counter() - began

    async def capacity(self, callers: int, seconds: float) -> float:
        """Calls a second that so many callers get, each of whom waits for its answer."""
        seen, until = Seen(), time.perf_counter() + seconds
        numbers = itertools.count()

        async def call_on() -> None:
            while (due := time.perf_counter()) < until:
                await self._call(next(numbers), due, seen)

        await asyncio.gather(*(call_on() for _ in range(callers)))
        return len(seen.seconds) / seconds

    async def call_until(self, over: asyncio.Event, rate: float, seed: int) -> Seen:
        """Call at a rate, whatever becomes of the calls, until something is over; then wait for the rest."""
        seen = Seen()
        tasks: set[asyncio.Task[None]] = set()
        number, piece = 0, 0
        began = time.perf_counter()
        while not over.is_set():
            for offset in poisson_schedule(rate, 1.0, seed + piece):
                due = began + piece + offset
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                task = asyncio.create_task(self._call(number, due, seen))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
                if over.is_set():
                    break
            piece += 1
        await asyncio.gather(*tasks)
        return seen

    async def _call(self, number: int, due: float, seen: Seen) -> None:
        index = number % len(self._requests)
        try:
            data = await self._embed(self._requests[index], timeout=_PATIENT_SECONDS)
        except grpc.aio.AioRpcError as error:
            seen.codes[error.code().name] += 1
            return
        seen.seconds.append(time.perf_counter() - due)
        seen.codes["OK"] += 1
        answer = inference_pb2.EmbedResponse.FromString(data)
        seen.versions[answer.version] += 1
        found = np.frombuffer(answer.vectors, np.float32)
        if np.abs(found - self._golden.answers[answer.version][index]).max() > _RIGHT:
            seen.wrong += 1
