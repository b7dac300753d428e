from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from headwaiter import (
    SERVICE_CONFIG,
    AsyncClient,
    CallCancelledError,
    Client,
    HealthStatus,
    OverloadedError,
    ServerUnreachableError,
)
from headwaiter.service_config import SERVICE_CONFIG_PICK_FIRST
from headwaiter_proto.inference import grpc_service_pb2 as open_inference
from unit.client.scripted_server import NOT_SERVING, refuse, retry_info, upper_case

if TYPE_CHECKING:
    from collections.abc import Callable

    from unit.client.scripted_server import Script, ScriptedServer

Code = grpc.StatusCode
CLIENTS = Path(__file__).resolve().parents[3] / "clients"


def failing(times: int, code: Code = Code.UNAVAILABLE, *, pushback: str | None = None) -> tuple[list[bytes], Script]:
    """A script that refuses so many attempts, then answers; and the requests it saw."""
    seen: list[bytes] = []

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.append(request)
        if len(seen) <= times:
            return refuse(context, code, "busy", detail=retry_info(0.2), pushback=pushback)
        return upper_case(request, context)

    return seen, answer


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.CANCELLED])
async def test_refused_calls_are_tried_again(serve: Callable[..., ScriptedServer], code: Code) -> None:
    """Two refusals are invisible to both clients."""
    seen, script = failing(2, code)
    server = serve({"Generate": script})
    with Client(server.target) as client:
        assert client.generate("a").generations[0].text == "A"
    assert len(seen) == 3
    seen.clear()
    async with AsyncClient(server.target) as async_client:
        assert (await async_client.generate("a")).generations[0].text == "A"
    assert len(seen) == 3


def test_the_fourth_refusal_is_final(serve: Callable[..., ScriptedServer]) -> None:
    """A call is attempted four times, then says when to come back."""
    seen, script = failing(99)
    with Client(serve({"Generate": script}).target) as client, pytest.raises(OverloadedError) as caught:
        client.generate("a")
    assert len(seen) == 4
    assert caught.value.retry_after_seconds == pytest.approx(0.2)


def test_pushback_of_minus_one_forbids_retries(serve: Callable[..., ScriptedServer]) -> None:
    """A server that asks not to be tried again sees one attempt."""
    seen, script = failing(99, pushback="-1")
    with Client(serve({"Generate": script}).target) as client, pytest.raises(OverloadedError):
        client.generate("a")
    assert len(seen) == 1


def test_pushback_sets_the_wait(serve: Callable[..., ScriptedServer]) -> None:
    """The server's wait replaces the client's shorter backoff."""
    _, script = failing(1, pushback="200")
    server = serve({"Generate": script})
    with Client(server.target) as client:
        client.generate("a")
    first, second = (call.arrived for call in server.calls)
    assert second - first >= 0.199


def test_retries_can_be_switched_off(serve: Callable[..., ScriptedServer]) -> None:
    """With `retries=False` the first refusal is final."""
    seen, script = failing(99)
    server = serve({"Generate": script})
    with Client(server.target, retries=False) as client, pytest.raises(OverloadedError):
        client.generate("a")
    assert len(seen) == 1


def test_other_failures_are_not_tried_again(serve: Callable[..., ScriptedServer]) -> None:
    """A fault of the server is not repeated four times."""
    seen, script = failing(99, Code.INTERNAL)
    with Client(serve({"Generate": script}).target) as client, pytest.raises(Exception, match="busy"):
        client.generate("a")
    assert len(seen) == 1


def test_large_calls_are_tried_again_too(serve: Callable[..., ScriptedServer]) -> None:
    """A call beyond gRPC's default retry buffer is no exception."""
    seen, script = failing(2)
    with Client(serve({"Generate": script}).target) as client:
        client.generate("a" * 2_000_000)
    assert len(seen) == 3


def test_a_stopping_server_ends_calls_as_cancelled(serve: Callable[..., ScriptedServer]) -> None:
    """CANCELLED that comes from the server for good is an error of the call."""
    _, script = failing(99, Code.CANCELLED)
    with Client(serve({"Generate": script}).target) as client, pytest.raises(CallCancelledError):
        client.generate("a")


async def test_a_server_that_does_not_serve_gets_no_work(serve: Callable[..., ScriptedServer]) -> None:
    """Health checking keeps work away from such a server, yet still lets it be asked how it is."""
    server = serve({"Check": lambda request, context: NOT_SERVING}, watch=NOT_SERVING)
    with Client(server.target, retries=False) as client:
        with pytest.raises(ServerUnreachableError):
            client.generate("a")
        assert client.health() is HealthStatus.NOT_SERVING
    async with AsyncClient(server.target, retries=False) as async_client:
        with pytest.raises(ServerUnreachableError):
            await async_client.generate("a")
        assert await async_client.health() is HealthStatus.NOT_SERVING
    assert "Generate" not in [call.method for call in server.calls]


def test_a_server_without_health_checks_gets_work(serve: Callable[..., ScriptedServer]) -> None:
    """A server that offers no health service counts as one that serves."""
    with Client(serve(watch=None).target, retries=False) as client:
        assert client.generate("a").generations[0].text == "A"


def test_work_goes_to_the_servers_that_serve(serve: Callable[..., ScriptedServer]) -> None:
    """Of two addresses the one that serves gets every call."""
    out, up = serve(watch=NOT_SERVING), serve()
    with Client(f"ipv4:{out.target},{up.target}") as client:
        for _ in range(6):
            client.generate("a")
    assert (len(out.calls), len(up.calls)) == (0, 6)


def test_work_is_spread_over_addresses(serve: Callable[..., ScriptedServer]) -> None:
    """Two servers that serve share the calls."""
    servers = [serve(), serve()]
    # The first answers come before the second connection stands; wait for that, not for a time.
    with Client(f"ipv4:{servers[0].target},{servers[1].target}") as client:
        while not all(server.calls for server in servers):
            client.generate("a")
        before = [len(server.calls) for server in servers]
        for _ in range(10):
            client.generate("a")
    assert [len(server.calls) - count for server, count in zip(servers, before, strict=True)] == [5, 5]


def test_a_server_in_trouble_is_not_hit_four_times(serve: Callable[..., ScriptedServer]) -> None:
    """After some 500 failures in a row a call is one attempt."""
    seen, script = failing(10_000, pushback="1")
    with Client(serve({"Generate": script}).target) as client:
        for _ in range(130):
            with pytest.raises(OverloadedError):
                client.generate("a")
        before = len(seen)
        with pytest.raises(OverloadedError):
            client.generate("a")
    assert 480 < before < 520
    assert len(seen) == before + 1


def test_the_published_config_is_what_grpc_reads() -> None:
    """The published JSON names the parts that other languages rely on."""
    config = json.loads(SERVICE_CONFIG)
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["healthCheckConfig"] == {"serviceName": ""}
    names = config["methodConfig"][0]["name"]
    assert names[0] == {"service": "headwaiter.v1.InferenceService"}
    assert {name["method"] for name in names[1:]} >= {"ModelInfer", "ModelStreamInfer"}
    assert config["methodConfig"][0]["retryPolicy"]["maxAttempts"] == 4
    assert config["retryThrottling"]["maxTokens"] >= 200


def test_what_changes_a_server_is_not_tried_again() -> None:
    """Of the Open Inference Protocol exactly the methods that change nothing are retried, each by its name."""
    methods = open_inference.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    changing = ("RepositoryModel", "Register", "Unregister", "Setting", "SharedMemory")
    harmless = {method.name for method in methods if not any(word in method.name for word in changing)}
    names = json.loads(SERVICE_CONFIG)["methodConfig"][0]["name"][1:]
    assert {name["method"] for name in names} == harmless


@pytest.mark.parametrize(
    ("file", "config"),
    [("service-config.json", SERVICE_CONFIG), ("service-config-pick-first.json", SERVICE_CONFIG_PICK_FIRST)],
)
def test_the_published_files_are_what_the_client_uses(file: str, config: str) -> None:
    """Clients in other languages read the very config that this one uses."""
    assert (CLIENTS / file).read_text() == f"{config}\n"
