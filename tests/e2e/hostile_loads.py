"""Damaged bundles, loaded by callers into a real server that answers others meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import grpc
import numpy as np
from headwaiter import AsyncClient
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.building import digest_of
from headwaiter_server.lifecycle.repository import BundleLocation
from unit.server.graphs import expected
from unit.server.hostile_bundles import Hostile, Hostiles, remove
from unit.server.test_load_encoder import Made

_SERVICE = "/inference.GRPCInferenceService"
HEALTHY = "healthy"
LOADS_AT_A_TIME = 4
# Beyond every limit that the server has been given.
ANSWER_SECONDS = 120.0


class Verdict(Enum):
    """What came of a damaged bundle."""

    BY_SERVER = "refused by the server's own checks"
    IN_CHILD = "refused in the child"
    CRASHED = "crashed the child"
    HUNG = "hung in the child"
    NO_MEMORY = "wanted more memory than there is"
    HARMLESS = "loaded: it passed its golden check"


# How each of the typed errors reads; what fits none of them is a finding.
_WORDS = {
    "crashed (": Verdict.CRASHED,
    "the process in which it was tried ended": Verdict.CRASHED,
    "was killed, most likely for want of memory": Verdict.NO_MEMORY,
    "does not fit into the": Verdict.NO_MEMORY,
    "was not ready within": Verdict.HUNG,
    "more processor time than": Verdict.HUNG,
}


@dataclass(frozen=True)
class Outcome:
    """One load.

    Attributes:
        hostile: Which bundle.
        verdict: What came of it; None for something that must not happen.
        message: What the caller was told.
    """

    hostile: Hostile
    verdict: Verdict | None
    message: str

    @property
    def unanswered(self) -> bool:
        """Whether its caller gave up, long after the server should have."""
        return self.message.startswith(grpc.StatusCode.DEADLINE_EXCEEDED.name)


def write_healthy(repository: Path) -> Made:
    """A whole model, written into a repository."""
    made = Made(repository / HEALTHY)
    made.write()
    return made


class RepositoryClient:
    """Loads and unloads models, as any client of the protocol does."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._load: Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]] = channel.unary_unary(
            f"{_SERVICE}/RepositoryModelLoad"
        )
        self._unload: Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]] = channel.unary_unary(
            f"{_SERVICE}/RepositoryModelUnload"
        )
        self._index: Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]] = channel.unary_unary(
            f"{_SERVICE}/RepositoryIndex"
        )

    async def load(self, name: str, timeout_seconds: float = ANSWER_SECONDS) -> None:
        """Load a model."""
        request = grpc_service_pb2.RepositoryModelLoadRequest(model_name=name)
        await self._load(request.SerializeToString(), timeout=timeout_seconds)

    async def unload(self, name: str, timeout_seconds: float = ANSWER_SECONDS) -> None:
        """Unload a model."""
        request = grpc_service_pb2.RepositoryModelUnloadRequest(model_name=name)
        await self._unload(request.SerializeToString(), timeout=timeout_seconds)

    async def states(self) -> dict[str, str]:
        """State of each version, by name and version."""
        request = grpc_service_pb2.RepositoryIndexRequest()
        data = await self._index(request.SerializeToString(), timeout=ANSWER_SECONDS)
        index = grpc_service_pb2.RepositoryIndexResponse.FromString(data)
        return {f"{each.name}/{each.version}": each.state for each in index.models}


class Answers:
    """Asks the healthy model again and again, and holds every answer to its golden output.

    Attributes:
        right: Answers that were right.
        slowest_seconds: The longest that one of these took.
        problem: What was wrong with the first one that was not.
        expected: What it answers.
    """

    def __init__(self, target: str, made: Made) -> None:
        self._target = target
        self._texts = made.golden["texts"].tolist()
        lengths, ids = made.golden["lengths"].tolist(), made.golden["input_ids"]
        # A call gives no token types.
        raw = np.stack([expected(Encoding(row[:length].tolist())) for row, length in zip(ids, lengths, strict=True)])
        self.expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        self.right = 0
        self.slowest_seconds = 0.0
        self.problem = ""

    async def ask(self) -> None:
        """Ask for ever, or until an answer is wrong."""
        async with AsyncClient(self._target, retries=False) as client:
            while True:
                began = time.monotonic()
                try:
                    answer = await client.embed(self._texts, model=HEALTHY, timeout_seconds=ANSWER_SECONDS)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
                    self.problem = self.problem or repr(error)
                    return
                if not np.allclose(np.asarray(answer.vectors), self.expected, atol=1e-5):
                    self.problem = self.problem or f"another answer than before: {answer}"
                    return
                self.right += 1
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)

    @contextlib.asynccontextmanager
    async def all_along(self, callers: int = 2) -> AsyncIterator[None]:
        """Ask while something else goes on."""
        tasks = [asyncio.create_task(self.ask()) for _ in range(callers)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def load_hostiles(
    target: str, repository: Path, hostiles: Hostiles, numbers: range, done: Callable[[Outcome], None]
) -> None:
    """Write damaged bundles into the repository of a server and have it load them, several at a time.

    Args:
        target: Of the server.
        repository: Its models.
        hostiles: Makes them.
        numbers: Which.
        done: Told of each.
    """
    async with grpc.aio.insecure_channel(target) as channel:
        models = RepositoryClient(channel)
        waiting = iter(numbers)

        async def loader() -> None:
            for number in waiting:
                done(await _load(models, repository, hostiles, number))

        await asyncio.gather(*(loader() for _ in range(LOADS_AT_A_TIME)))


async def _load(models: RepositoryClient, repository: Path, hostiles: Hostiles, number: int) -> Outcome:
    name = f"hostile-{number}"
    folder = repository / name / "1"
    hostile = await asyncio.to_thread(hostiles.write, number, folder)
    try:
        await asyncio.to_thread(digest_of, BundleLocation(name, 1, folder))
    except BundleError:
        otherwise = Verdict.BY_SERVER
    else:
        otherwise = Verdict.IN_CHILD
    try:
        await models.load(name)
    except grpc.aio.AioRpcError as error:
        message = error.details() or ""
        found = [verdict for words, verdict in _WORDS.items() if words in message]
        # A typed error says which bundle it is about, and why.
        typed = error.code() is grpc.StatusCode.FAILED_PRECONDITION and name in message and "Traceback" not in message
        return Outcome(hostile, (found or [otherwise])[0] if typed else None, f"{error.code().name}: {message}")
    else:
        await models.unload(name)
        return Outcome(hostile, Verdict.HARMLESS, "")
    finally:
        await asyncio.to_thread(remove, folder)
        await asyncio.to_thread(folder.parent.rmdir)
