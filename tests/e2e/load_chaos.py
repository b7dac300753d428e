"""Many callers who load, unload, swap and ask models at random, of a server whose insides can be counted."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import grpc
import numpy as np
import onnx
import psutil
from headwaiter import AsyncClient, DeadlineExceededError, HeadwaiterError
from headwaiter_server.app import Server
from headwaiter_server.config import ServerSettings
from unit.server.hostile_graphs import crashing
from unit.server.test_load_encoder import Made

from .hostile_loads import Answers, RepositoryClient, write_healthy

MOVERS = [f"mover-{number}" for number in range(4)]
BROKEN = "broken"
MISSING = "missing"
_VERSIONS = (1, 2)
_GROWING = ("asyncio_", "ThreadPool", "worker_", "metrics-route")
# Of a load that waits for many others; longer is a deadlock.
_ANSWER_SECONDS = 60.0
# Nothing more comes to an end then.
_QUIET_SECONDS = 2.0


@dataclass(frozen=True)
class Insides:
    """What a server holds when nobody calls it and only one model is loaded.

    Attributes:
        tasks: Of the event loop.
        threads: Names of Python's, but for those of pools that grow to their bound as they are needed.
        descriptors: Open files and sockets.
        lanes: Places in the scheduler.
        models: In the catalog, drained ones included.
        children: Processes that it has started.
    """

    tasks: int
    threads: tuple[str, ...]
    descriptors: int
    lanes: int
    models: int
    children: int


def write_repository(repository: Path) -> Made:
    """A model that stays, some that come and go in two versions, and one that crashes onnxruntime."""
    for name in MOVERS:
        for version in _VERSIONS:
            made = Made(repository / f".{name}-{version}")
            graph = onnx.load_from_string(made.graph)
            graph.graph.name = f"{name}-{version}"
            made.graph = graph.SerializeToString()
            made.write()
            (repository / name).mkdir(exist_ok=True)
            made.folder.rename(repository / name / str(version))
    broken = Made(repository / BROKEN)
    broken.graph = crashing(broken.graph)
    broken.write()
    return write_healthy(repository)


@contextlib.asynccontextmanager
async def counted_server(repository: Path, kept: Path) -> AsyncIterator[Server]:
    """A server in this process, with the model that stays."""
    settings = ServerSettings(
        models=repository,
        listen=["127.0.0.1:0"],
        metrics_listen="127.0.0.1:0",
        model_control="explicit",
        load_models=["healthy"],
        calibration="off",
        calibration_cache=kept,
        lame_duck_seconds=0,
        workers=2,
    )
    stop = asyncio.Event()
    server = Server(settings, stop)
    try:
        await server.start()
        yield server
        stop.set()
        await server.drain()
    finally:
        await server.close()


async def insides(server: Server) -> Insides:
    """Counts, once everything that ends by itself after a while has ended."""
    await server._trials.close()
    gc.collect()
    process = psutil.Process()
    return Insides(
        tasks=len(asyncio.all_tasks()),
        threads=tuple(sorted(each.name for each in threading.enumerate() if not each.name.startswith(_GROWING))),
        descriptors=process.num_fds(),
        lanes=len(server.dispatcher._lanes),
        models=len(server._catalog.placed()),
        children=len(process.children()),
    )


async def settled(server: Server, like: Insides | None = None, patience_seconds: float = 60.0) -> Insides:
    """Counts of what the server has, once they are as others were, or do not become so.

    What gRPC closes it closes on threads of its own, some time after it was told to.

    Args:
        server: The server.
        like: What they were; None if nobody knows yet: then once they have not changed for a while.
        patience_seconds: Longest wait.
    """
    began = quiet = time.monotonic()
    found = await insides(server)
    while found != like and time.monotonic() < began + patience_seconds:
        if like is None and time.monotonic() > quiet + _QUIET_SECONDS:
            break
        await asyncio.sleep(0.05)
        before, found = found, await insides(server)
        if found != before:
            quiet = time.monotonic()
    return found


class Chaos:
    """Callers who do at random what callers may do.

    Attributes:
        done: How often each thing was done, and how it ended.
        problems: What must not happen.
        unanswered: How many of these were calls that nobody answered in a time that is long enough for any.
    """

    def __init__(self, server: Server, repository: Path, made: Made, seed: int) -> None:
        self._target = server.grpc_addresses[0]
        self._repository = repository
        self._seed = seed
        self._texts = made.golden["texts"].tolist()
        self.answers = Answers(self._target, made)
        self.done: Counter[str] = Counter()
        self.problems: list[str] = []
        self.unanswered = 0

    async def run(self, callers: int, go_on: Callable[[], bool]) -> None:
        """Do things until told to stop, and ask the model that stays all along; then have nothing else loaded."""
        async with self.answers.all_along(), asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(self._caller(number, go_on))
        await self.unload_all()
        if self.answers.problem:
            self.problems.append(self.answers.problem)

    async def unload_all(self) -> None:
        """Have none of the models loaded that come and go."""
        async with grpc.aio.insecure_channel(self._target) as channel:
            models = RepositoryClient(channel)
            for name in MOVERS:
                await models.unload(name)

    async def load_each(self) -> None:
        """Load every version of every model once, so that whatever is made once is there."""
        async with (
            grpc.aio.insecure_channel(self._target) as channel,
            AsyncClient(self._target, timeout_seconds=_ANSWER_SECONDS) as client,
        ):
            models = RepositoryClient(channel)
            for name in MOVERS:
                self._hide(name)
                await models.load(name)
                self._show(name)
                await models.load(name)
                await client.embed(self._texts, model=name)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await models.load(BROKEN)
        await self.unload_all()

    async def _caller(self, number: int, go_on: Callable[[], bool]) -> None:
        rng = Random(f"{self._seed}/{number}")
        # A channel of its own: callers are strangers to one another.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with (
            grpc.aio.insecure_channel(self._target, options=options) as channel,
            AsyncClient(self._target, retries=False, timeout_seconds=_ANSWER_SECONDS) as client,
        ):
            models = RepositoryClient(channel)
            while go_on():
                await self._act(rng, models, client)

    async def _act(self, rng: Random, models: RepositoryClient, client: AsyncClient) -> None:
        name = rng.choice(MOVERS)
        acts: dict[str, Callable[[], Awaitable[object]]] = {
            "load": partial(models.load, name),
            "unload": partial(models.unload, name),
            "swap": partial(self._swap, rng, models, name),
            "impatient": partial(rng.choice([models.load, models.unload]), name, rng.choice([0.001, 0.01, 0.05])),
            "ask": partial(self._ask, client, name),
            "index": models.states,
            "broken": partial(models.load, BROKEN),
            "missing": partial(models.load, MISSING),
        }
        (what,) = rng.choices(list(acts), [4, 2, 4, 2, 6, 1, 1, 1])
        try:
            await acts[what]()
        except grpc.aio.AioRpcError as error:
            self._ended(what, error.code().name, error.details() or "")
        except HeadwaiterError as error:
            self._ended(what, type(error).__name__, str(error))
        else:
            self._ended(what, "OK", "")

    async def _swap(self, rng: Random, models: RepositoryClient, name: str) -> None:
        rng.choice([self._hide, self._show])(name)
        await models.load(name)

    async def _ask(self, client: AsyncClient, name: str) -> None:
        answer = await client.embed(self._texts, model=name, timeout_seconds=_ANSWER_SECONDS)
        if not np.allclose(np.asarray(answer.vectors), self.answers.expected, atol=1e-5):
            self.problems.append(f"{name} answered {answer.vectors}")

    def _ended(self, what: str, how: str, words: str) -> None:
        self.done[f"{what}: {how}"] += 1
        allowed = _ALLOWED[what]
        if how not in allowed:
            self.problems.append(f"{what} ended with {how}: {words}")
            self.unanswered += how in _TOO_LATE

    def _hide(self, name: str) -> None:
        """Have the newest version not be there."""
        with contextlib.suppress(OSError):  # somebody else was faster
            (self._repository / name / "2").rename(self._repository / name / ".2")

    def _show(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._repository / name / ".2").rename(self._repository / name / "2")


_TOO_LATE = {grpc.StatusCode.DEADLINE_EXCEEDED.name, DeadlineExceededError.__name__}
# How each thing may end. A version that is hidden while it is read cannot be loaded.
_ALLOWED = {
    "load": {"OK", "FAILED_PRECONDITION"},
    "unload": {"OK"},
    "swap": {"OK", "FAILED_PRECONDITION"},
    "impatient": {"OK", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION"},
    "ask": {"OK", "NotFoundError"},
    "index": {"OK"},
    "broken": {"FAILED_PRECONDITION"},
    "missing": {"NOT_FOUND"},
}
