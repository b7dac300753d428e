"""Envoy with the published configuration before a real server: what it lets through, and what it answers itself."""

from __future__ import annotations

import queue
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from headwaiter import TLS, Client, HealthStatus, InvalidRequestError, ResourceExhaustedError
from headwaiter_proto.inference import grpc_service_pb2 as open_inference
from headwaiter_proto.v1 import inference_pb2

from .proxy import NAME, Proxy, envoy, running_proxy, write_config
from .replicas import Replica, running_replicas
from .sleeping_server import MODEL, TEXT

SERVICE = "/headwaiter.v1.InferenceService/"
OPEN_INFERENCE = "/inference.GRPCInferenceService/"
MEBIBYTE = 2**20


def test_envoy_takes_the_configuration(tmp_path: Path) -> None:
    """Nothing in it is unknown to Envoy, nor about to go."""
    said = subprocess.run(
        [envoy(), "--mode", "validate", "--config-path", write_config(tmp_path, ["127.0.0.1:1", "127.0.0.1:2"])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert "eprecated" not in said.stderr


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Replica, Proxy]]:
    """A server, and Envoy before it."""
    folder = tmp_path_factory.mktemp("proxy")
    with running_replicas(1, folder) as (replica,), running_proxy(folder, [replica.address]) as proxy:
        yield replica, proxy


@pytest.fixture
def client(proxied: tuple[Replica, Proxy]) -> Iterator[Client]:
    """A client of Envoy that tries nothing again."""
    _, proxy = proxied
    with Client(proxy.target, tls=TLS(ca_file=proxy.ca_file, server_name=NAME), retries=False) as client:
        yield client


@contextmanager
def channel_to(proxy: Proxy) -> Iterator[grpc.Channel]:
    """A channel without any care."""
    credentials = grpc.ssl_channel_credentials(proxy.ca_file.read_bytes())
    with grpc.secure_channel(proxy.target, credentials, [("grpc.ssl_target_name_override", NAME)]) as channel:
        yield channel


def test_calls_streams_and_health_come_through(client: Client) -> None:
    """A client needs to know nothing of Envoy, although its watch of one server's health is not let through."""
    texts = [f"w{number % 14 + 1}" for number in range(200)]
    assert client.embed(TEXT).dimension > 0
    assert [reply.index for reply in client.embed_stream(texts)] == list(range(200))
    assert client.health() is HealthStatus.SERVING
    assert [model.name for model in client.models()] == [MODEL]


def test_a_stream_is_answered_while_it_goes_on(proxied: tuple[Replica, Proxy]) -> None:
    """Envoy does not hold back a stream's messages until all are there."""
    _, proxy = proxied
    outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with channel_to(proxy) as channel:
        stream: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"{SERVICE}EmbedStream")
        answers = stream(iter(outgoing.get, None), timeout=60)
        for number in range(3):
            request = inference_pb2.EmbedRequest(texts=[TEXT])
            outgoing.put(inference_pb2.EmbedStreamRequest(id=number, request=request).SerializeToString())
            assert inference_pb2.EmbedStreamResponse.FromString(next(answers)).id == number
        outgoing.put(None)
        assert not list(answers)


def test_calls_that_change_a_server_do_not_come_through(proxied: tuple[Replica, Proxy]) -> None:
    """Of the Open Inference Protocol what asks and computes is let through, what loads and registers is not."""
    _, proxy = proxied
    for method in open_inference.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        if not method.client_streaming:
            harmless = not any(word in method.name for word in ("RepositoryModel", "SharedMemory", "Setting"))
            code = code_of(proxy, OPEN_INFERENCE + method.name)
            assert (code is not grpc.StatusCode.UNIMPLEMENTED) is harmless, method.name


def code_of(proxy: Proxy, path: str, metadata: tuple[tuple[str, str], ...] = ()) -> grpc.StatusCode:
    """What an empty message is answered with."""
    with channel_to(proxy) as channel:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        try:
            method(b"", timeout=60, metadata=metadata)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def test_messages_that_are_too_large_end_at_envoy(client: Client, proxied: tuple[Replica, Proxy]) -> None:
    """They get the status that the server itself gives, and the server never sees them; a large one comes through."""
    replica, _ = proxied
    client.embed(TEXT)
    before = asked(replica)
    with pytest.raises(InvalidRequestError, match="the limit"):
        client.embed("w1 " * (2 * MEBIBYTE))
    # A call that is refused is counted when its status is on its way.
    while asked(replica) < before + 1:
        pass
    with pytest.raises(ResourceExhaustedError):
        client.embed("w1 " * (4 * MEBIBYTE))
    client.embed(TEXT)
    assert asked(replica) == before + 2


def asked(replica: Replica) -> float:
    """How many calls to embed have come to a server."""
    counted = replica.server.scrape().items()
    return sum(value for name, value in counted if name.startswith("headwaiter_requests_total") and '/Embed"' in name)


def test_headers_that_are_too_large_end_at_envoy(proxied: tuple[Replica, Proxy]) -> None:
    """Metadata of more than 16 KiB is refused; others are let through."""
    _, proxy = proxied
    live = f"{OPEN_INFERENCE}ServerLive"
    assert code_of(proxy, live, (("x-large", "a" * 8_000),)) is grpc.StatusCode.OK
    assert code_of(proxy, live, (("x-large", "a" * 40_000),)) is not grpc.StatusCode.OK
