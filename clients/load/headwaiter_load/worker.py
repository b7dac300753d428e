"""A process that sends load: told what to do by its parent over a pipe, until the pipe closes."""

from __future__ import annotations

import asyncio
import gc
import selectors
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import grpc

from headwaiter_load.driver import Assignment, Driver
from headwaiter_load.endpoint import CONNECT_SECONDS, Endpoint, open_channels
from headwaiter_load.errors import LoadError, UnreachableError
from headwaiter_load.recorder import Report
from headwaiter_load.requests import Requests
from headwaiter_load.senders import make_sender

PROGRESS_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Ready:
    """It is connected."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It cannot go on.

    Attributes:
        error: Why.
    """

    error: LoadError


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is; as of `Driver.take_live`."""

    number: int
    sent: int
    answered: int
    failed: int
    latency: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Told to it: end the run now."""


Message = Ready | Failed | Progress | Report


def main(pipe: Connection, endpoint: Endpoint, requests: Requests, number: int, count: int) -> None:
    """What the process does.

    Args:
        pipe: Assignments and `Stop` come in, messages go out; when it closes, the process ends.
        endpoint: Where the server is.
        requests: What to send.
        number: This process, from 0.
        count: All of them.
    """
    # Ctrl-C reaches every process of a terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The requests stay as long as the process; the collector need not look at them again and again.
    gc.freeze()
    # select() takes microseconds where epoll() rounds up to whole milliseconds, which would all be latency; and gRPC
    # waits for its sockets itself, so that there are few files here.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        try:
            runner.run(_serve(pipe, endpoint, requests, number, count))
        except LoadError as error:
            pipe.send(Failed(error))
        except (EOFError, BrokenPipeError):
            # The parent is gone, and nobody waits for results.
            return


async def _serve(pipe: Connection, endpoint: Endpoint, requests: Requests, number: int, count: int) -> None:
    channels, metadata = open_channels(endpoint)
    try:
        await _connect(endpoint, channels)
        sender = make_sender(requests.exchange, channels, requests.path, metadata)
        pipe.send(Ready())
        orders = _orders(pipe)
        while isinstance(order := await orders.get(), Assignment | Stop):
            if isinstance(order, Assignment):
                pipe.send(await _run(pipe, orders, Driver(order, requests, sender, number, count), number))
        await sender.close()
    finally:
        for channel in channels:
            await channel.close()


async def _connect(endpoint: Endpoint, channels: list[grpc.aio.Channel]) -> None:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            for channel in channels:
                while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        raise UnreachableError(f"no server answers at {endpoint.target}")
                    await channel.wait_for_state_change(state)
    except TimeoutError as error:
        raise UnreachableError(f"no server answers at {endpoint.target} within {CONNECT_SECONDS:g} s") from error


def _orders(pipe: Connection) -> asyncio.Queue[Any]:
    """What the parent sends; None when it is gone."""
    orders: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def receive() -> None:
        try:
            orders.put_nowait(pipe.recv())
        except (EOFError, OSError):
            loop.remove_reader(pipe.fileno())
            orders.put_nowait(None)

    loop.add_reader(pipe.fileno(), receive)
    return orders


async def _run(pipe: Connection, orders: asyncio.Queue[Any], driver: Driver, number: int) -> Report:
    """One run, with word of its progress, and an ear for `Stop`."""

    async def listen() -> None:
        # Whatever comes while it runs means that it shall end: `Stop`, or that the parent is gone.
        order = await orders.get()
        driver.interrupt()
        orders.put_nowait(order)

    async def tell() -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            pipe.send(Progress(number, *driver.take_live()))

    others = [asyncio.create_task(listen()), asyncio.create_task(tell())]
    try:
        return await driver.run()
    finally:
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)
