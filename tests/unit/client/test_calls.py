from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from headwaiter import (
    AsyncClient,
    CallCancelledError,
    ChannelOptions,
    Client,
    DeadlineExceededError,
    HealthStatus,
    InvalidRequestError,
    NotFoundError,
    ResourceExhaustedError,
)
from headwaiter_proto.v1 import inference_pb2
from unit.client.scripted_server import SERVING, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from unit.client.scripted_server import ScriptedServer


class Held:
    """A script whose calls stay open until the caller gives up."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.left = threading.Event()

    def __call__(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        # False says that the call has ended already.
        if not context.add_callback(self.left.set):
            self.left.set()
        self.entered.set()
        self.left.wait()
        return b""


async def test_both_clients_give_equal_results(server: ScriptedServer) -> None:
    """Blocking and asyncio calls differ in nothing but how they wait, on the wire too."""
    arguments: dict[str, Any] = {"model": "m", "version": 2, "max_new_tokens": 3}
    with Client(server.target) as client:
        blocking = (
            client.generate(["ab", "Grüße"], **arguments),
            client.models(),
            client.model("shout", 3),
            client.health(),
        )
    seen = [(call.method, call.request) for call in server.calls]
    server.calls.clear()
    async with AsyncClient(server.target) as async_client:
        awaited = (
            await async_client.generate(["ab", "Grüße"], **arguments),
            await async_client.models(),
            await async_client.model("shout", 3),
            await async_client.health(),
        )
    assert blocking == awaited
    assert [generation.text for generation in blocking[0].generations] == ["AB", "GRÜ"]
    assert [(call.method, call.request) for call in server.calls] == seen
    assert inference_pb2.GenerateRequest.FromString(seen[0][1]) == inference_pb2.GenerateRequest(
        texts=["ab", "Grüße"], **arguments
    )


async def test_every_call_has_a_deadline(server: ScriptedServer) -> None:
    """The server sees the client's deadline, or the call's own, on each method."""
    begun = []
    with Client(server.target) as client:
        for call in (partial(client.generate, "a"), client.models, client.model, client.health):
            begun.append(time.monotonic())
            call()
    async with AsyncClient(server.target, timeout_seconds=5) as async_client:
        for ask in (partial(async_client.generate, "a"), partial(async_client.health, timeout_seconds=2)):
            begun.append(time.monotonic())
            await ask()
    for began, seen, bound in zip(begun, server.calls, [10, 10, 10, 10, 5, 2], strict=True):
        # Less what it took to come there; gRPC rounds the deadline it sends up, by at most five percent.
        on_its_way = seen.arrived - began
        assert bound - on_its_way - 0.01 < seen.time_remaining <= 1.05 * bound


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_deadlines_are_positive_and_finite(server: ScriptedServer, seconds: float) -> None:
    """There is no way to wait for ever."""
    with pytest.raises(ValueError, match="timeout_seconds"):
        Client(server.target, timeout_seconds=seconds)
    with Client(server.target) as client, pytest.raises(ValueError, match="timeout_seconds"):
        client.generate("a", timeout_seconds=seconds)


async def test_a_deadline_that_passes_raises(serve: Callable[..., ScriptedServer]) -> None:
    """A call that takes too long ends with its own exception, from both clients."""
    target = serve({"Generate": _held}).target
    with Client(target) as client, pytest.raises(DeadlineExceededError, match="a smaller max_new_tokens") as caught:
        client.generate("a", timeout_seconds=0.05)
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    async with AsyncClient(target) as async_client:
        with pytest.raises(DeadlineExceededError, match="a smaller max_new_tokens"):
            await async_client.generate("a", timeout_seconds=0.05)


def test_invalid_arguments_never_leave(server: ScriptedServer) -> None:
    """What has no wire form is refused without a call."""
    with Client(server.target) as client, pytest.raises(InvalidRequestError):
        client.generate("\ud800")
    assert server.calls == []


async def test_unknown_models(serve: Callable[..., ScriptedServer]) -> None:
    """`model` raises for a model that is not there; `health` says so."""
    target = serve({"Check": _only_shout}).target
    with Client(target) as client:
        assert client.health("shout") is HealthStatus.SERVING
        assert client.health("nope") is HealthStatus.SERVICE_UNKNOWN
        with pytest.raises(NotFoundError, match="nope"):
            client.model("nope")
    async with AsyncClient(target) as async_client:
        assert await async_client.health("nope") is HealthStatus.SERVICE_UNKNOWN


async def test_closed_clients_refuse(server: ScriptedServer) -> None:
    """A call after `close()` is a mistake in the program, not a failure of a call; closing twice is fine."""
    client = Client(server.target)
    client.generate("a")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.generate("a")
    async_client = AsyncClient(server.target)
    await async_client.generate("a")
    await async_client.close()
    await async_client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await async_client.generate("a")


async def test_close_ends_running_calls(serve: Callable[..., ScriptedServer]) -> None:
    """A call that is under way when its client closes ends with an exception of ours, from both clients."""
    held = Held()
    client = Client(serve({"Generate": held}).target)
    blocking = asyncio.create_task(asyncio.to_thread(client.generate, "a"))
    await asyncio.to_thread(held.entered.wait)
    client.close()
    with pytest.raises(CallCancelledError):
        await blocking

    held = Held()
    async_client = AsyncClient(serve({"Generate": held}).target)
    awaited = asyncio.create_task(async_client.generate("a"))
    await asyncio.to_thread(held.entered.wait)
    await async_client.close()
    with pytest.raises(CallCancelledError):
        await awaited


async def test_cancelling_a_task_cancels_its_call(serve: Callable[..., ScriptedServer]) -> None:
    """The server learns that nobody waits any more, and the task sees asyncio's own cancellation."""
    held = Held()
    server = serve({"Generate": held})
    async with AsyncClient(server.target) as client:
        task = asyncio.create_task(client.generate("a"))
        await asyncio.to_thread(held.entered.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(held.left.wait, 10)
    # CANCELLED is tried again when it comes from a server, never when the caller made it.
    assert len(server.calls) == 1


async def test_threads_and_tasks_share_a_client(server: ScriptedServer) -> None:
    """Many calls at once on one client each get their own answer."""
    words = [f"w{number}" for number in range(40)]
    with Client(server.target) as client:
        replies = await asyncio.gather(*(asyncio.to_thread(client.generate, word) for word in words))
    assert [reply.generations[0].text for reply in replies] == [word.upper() for word in words]
    async with AsyncClient(server.target) as async_client:
        replies = await asyncio.gather(*(async_client.generate(word) for word in words))
    assert [reply.generations[0].text for reply in replies] == [word.upper() for word in words]


def test_message_size_is_bounded(server: ScriptedServer) -> None:
    """A reply over the client's limit ends the call instead of filling memory."""
    options = ChannelOptions(max_message_bytes=1000)
    with Client(server.target, channel_options=options) as client, pytest.raises(ResourceExhaustedError):
        client.generate(["a" * 10] * 60)


def test_waiting_for_a_server_is_a_choice(serve: Callable[..., ScriptedServer]) -> None:
    """With `wait_for_ready` a call waits for a server within its deadline instead of failing at once."""
    server = serve()
    server.stop()
    options = ChannelOptions(wait_for_ready=True)
    with Client(server.target, channel_options=options) as client, pytest.raises(DeadlineExceededError):
        client.generate("a", timeout_seconds=0.2)


def test_no_proxy_between_here_and_here(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment carries no calls for this machine."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    with Client(server.target, retries=False) as client:
        assert client.generate("a").generations[0].text == "A"


def test_clients_show_their_target() -> None:
    """A client in a log or a debugger says where it goes."""
    assert repr(Client("unix:/run/headwaiter.sock")) == "Client('unix:/run/headwaiter.sock')"


def _held(request: bytes, context: grpc.ServicerContext) -> bytes:
    return Held()(request, context)


def _only_shout(request: bytes, context: grpc.ServicerContext) -> bytes:
    return SERVING if request == b"\x0a\x05shout" else refuse(context, grpc.StatusCode.NOT_FOUND)


def test_call_that_a_close_overtakes_is_told_that_the_client_is_closed(server: ScriptedServer) -> None:
    """A call that has its channel when another thread closes it ends as any call of a closed client does."""
    client = Client(server.target)

    prepared = client._prepared

    def closing(method: Any) -> Any:  # noqa: ANN401 - as in the base class
        call = prepared(method)
        client.close()
        return call

    client._prepared = closing  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="this client is closed"):
        client.generate("word")


def test_wrong_argument_is_no_closed_client(server: ScriptedServer) -> None:
    """A deadline that makes no sense is told as such, and not as a client that is closed."""
    with Client(server.target) as client, pytest.raises(ValueError, match="timeout_seconds"):
        client.generate("word", timeout_seconds=-1)
