"""A server with an access file, over a real socket: who is let in, to what, how often, and what is told of it."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from e2e.process import ServerProcess, run_command
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import inference_pb2
from headwaiter_server.access.roles import HEALTH_METHODS, METHOD_ROLES, Role
from unit.server.access_files import client, digest, write_access

from .access_calls import EMBED, EMBED_STREAM, METHODS, OK, bearer, code_of, connected, embed_request, error_of
from .frames import DATA, END_STREAM, Wire, begin_call, frame, message_prefix, reset
from .sleeping_server import running_sleeping_server

TOKENS = {role: f"the-token-of-{role}-0123456789" for role in Role}
SLOW, TEXTS, STREAMS = (f"the-token-of-{name}-0123456789" for name in ("slow", "texts", "streams"))
NEW = "a-new-token-0123456789"
_PATIENCE_SECONDS = 60.0
UNKNOWN = f'headwaiter_requests_total{{code="UNAUTHENTICATED",method="{EMBED}",model="_other",version=""}}'


def clients(*further: str) -> list[str]:
    """One for each role, one for each quota, and more."""
    return [
        *(client(f"can-{role}", token, roles=f'"{role}"') for role, token in TOKENS.items()),
        client("slow", SLOW, more="max_calls_per_second = 1\ncalls_burst = 3"),
        client("streams", STREAMS, more="max_calls_per_second = 20\ncalls_burst = 3"),
        client("texts", TEXTS, more="max_texts_per_second = 10\ntexts_burst = 8"),
        *further,
    ]


@dataclass
class Guarded:
    """A server with an access file."""

    process: ServerProcess
    channel: grpc.Channel
    path: Path
    log: Path

    def code(self, method: str, token: str = "", data: bytes = b"") -> str:
        return code_of(self.channel, method, bearer(token) if token else (), data)

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait until the server has read its file."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while not reached():
            assert time.monotonic() < until, "the server has not read its file"
            time.sleep(0.05)


@pytest.fixture(scope="module", params=["open", "closed"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One server with health open, and one with health closed."""
    yield from serving(tmp_path_factory.mktemp("access"), request.param)


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One whose file changes."""
    yield from serving(tmp_path_factory.mktemp("access"), "open")


def serving(folder: Path, health: str) -> Iterator[Guarded]:
    path, log = write_access(folder / "access.toml", *clients()), folder / "log"
    flags = ["--access-file", str(path), "--health-access", health, "--lame-duck-seconds", "0"]
    flags += ["--model-control", "explicit", "--log-level", "debug", "--calibration", "off"]
    with (
        log.open("w") as written,
        running_sleeping_server(*flags, run_seconds=0.001, log=written) as process,
        connected(process.grpc) as channel,
    ):
        yield Guarded(process, channel, path, log)


def test_every_method_is_held_to_its_role(guarded: Guarded, request: pytest.FixtureRequest) -> None:
    """Each method of each service: without a token, with a wrong one, and with that of each role."""
    open_to_all = HEALTH_METHODS if request.node.callspec.params["guarded"] == "open" else frozenset[str]()
    wrong = {}
    for method in METHODS:
        for token in ("", "a-token-that-is-not-known", TOKENS[Role.INFER][:-1]):
            if (guarded.code(method, token) == "UNAUTHENTICATED") == (method in open_to_all):
                wrong[method, token] = guarded.code(method, token)
        for role, token in TOKENS.items():
            code, allowed = guarded.code(method, token), role in METHOD_ROLES[method]
            if (code == "PERMISSION_DENIED") == (allowed or method in open_to_all) or code == "UNAUTHENTICATED":
                wrong[method, role] = code
    assert wrong == {}


def test_names_of_services_are_for_those_who_observe(guarded: Guarded) -> None:
    """Reflection answers one role, and is worth nothing to the others."""
    asked = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    method = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    assert {role: guarded.code(method, token, asked) for role, token in TOKENS.items()} == {
        Role.INFER: "PERMISSION_DENIED",
        Role.OBSERVE: OK,
        Role.CONTROL: "PERMISSION_DENIED",
    }


def test_log_is_read_by_one_role_and_changed_by_another(changing: Guarded) -> None:
    """What the message asks decides, where one method does both."""
    method = "inference.GRPCInferenceService/LogSettings"
    change = grpc_service_pb2.LogSettingsRequest()
    change.settings["log_info"].bool_param = True
    assert changing.code(method, TOKENS[Role.OBSERVE]) == OK
    assert changing.code(method, TOKENS[Role.OBSERVE], change.SerializeToString()) == "PERMISSION_DENIED"
    assert changing.code(method, TOKENS[Role.CONTROL], change.SerializeToString()) == OK


def told(error: grpc.RpcError | None) -> tuple[str, int, float]:
    """Of a refusal: its code, the push-back in milliseconds, and the seconds of the details."""
    assert error is not None
    pairs: Iterable[Any] = error.trailing_metadata()
    trailers = dict(pairs)
    details = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.RetryInfo()
    assert details.details[0].Unpack(info)
    delay = info.retry_delay
    return error.code().name, int(trailers["grpc-retry-pushback-ms"]), delay.seconds + delay.nanos / 1e9


@pytest.mark.parametrize(("token", "texts"), [(SLOW, 1), (TEXTS, 8)])
def test_quota_refuses_until_it_is_refilled(changing: Guarded, token: str, texts: int) -> None:
    """Who is over its quota is told when to come back, and is let in then; nobody else is refused meanwhile."""
    data, error = embed_request(texts), None
    while error is None:
        error = error_of(changing.channel, EMBED, bearer(token), data)
    code, pushback, seconds = told(error)
    assert code == "RESOURCE_EXHAUSTED"
    assert 0 < seconds <= 1
    assert pushback == pytest.approx(seconds * 1000, abs=1)
    assert changing.code(EMBED, TOKENS[Role.INFER], data) == OK
    time.sleep(pushback / 1000)
    assert changing.code(EMBED, token, data) == OK


def test_what_is_refused_is_counted_under_its_client(changing: Guarded) -> None:
    """By its role and by its quota, also at the beginning of a stream; without a name there is nobody to count."""
    name = "headwaiter_client_requests_total"
    denied, spent = (
        f'{name}{{client="can-observe",code="PERMISSION_DENIED"}}',
        f'{name}{{client="slow",code="RESOURCE_EXHAUSTED"}}',
    )
    before = changing.process.scrape()
    for method in (EMBED, EMBED_STREAM):
        assert changing.code(method, TOKENS[Role.OBSERVE]) == "PERMISSION_DENIED"
        changing.until(lambda: changing.code(method, SLOW, embed_request()) == "RESOURCE_EXHAUSTED")  # noqa: B023
        assert changing.code(method, "a-token-that-is-not-known") == "UNAUTHENTICATED"
    changing.until(lambda: changing.process.scrape().get(denied, 0) == before.get(denied, 0) + 2)
    changing.until(lambda: changing.process.scrape().get(spent, 0) == before.get(spent, 0) + 2)
    assert f'{name}{{client="",' not in changing.process.scrape_text()


def test_stream_is_slowed_down_to_the_quota(changing: Guarded) -> None:
    """Messages over the quota are not refused: they are read as it is refilled."""
    request = inference_pb2.EmbedRequest(model="sleeper", texts=["w1"])
    messages = [inference_pb2.EmbedStreamRequest(id=number, request=request).SerializeToString() for number in range(6)]
    stream: grpc.StreamStreamMultiCallable[bytes, bytes] = changing.channel.stream_stream(f"/{EMBED_STREAM}")
    began = time.monotonic()
    answers = stream(iter(messages), metadata=bearer(STREAMS), timeout=_PATIENCE_SECONDS)
    seen = [inference_pb2.EmbedStreamResponse.FromString(answer) for answer in answers]
    assert sorted(each.id for each in seen) == list(range(6))
    assert not any(each.HasField("error") for each in seen)
    # Of three places one is for the opening; no machine is so fast that the other four messages come sooner.
    assert time.monotonic() - began >= 4 / 20 * 0.99


def test_tokens_are_rotated_without_a_restart(changing: Guarded) -> None:
    """A second token comes in beside the first; without the first, that neither begins a call nor goes on in a stream.

    Half a file in between changes nothing.
    """
    role = "rotated"
    old = "an-old-token-0123456789"
    write_access(changing.path, *clients(client(role, old)))
    changing.until(lambda: changing.code(EMBED, old, embed_request()) == OK)
    outgoing: queue.Queue[bytes | None] = queue.Queue()
    message = inference_pb2.EmbedStreamRequest(
        id=1, request=inference_pb2.EmbedRequest(model="sleeper", texts=["w1"])
    ).SerializeToString()
    stream: grpc.StreamStreamMultiCallable[bytes, bytes] = changing.channel.stream_stream(f"/{EMBED_STREAM}")
    answers = stream(iter(outgoing.get, None), metadata=bearer(old), timeout=_PATIENCE_SECONDS)
    outgoing.put(message)
    next(answers)
    write_access(changing.path, *clients(client(role, old, NEW)))
    changing.until(lambda: changing.code(EMBED, NEW, embed_request()) == OK)
    assert changing.code(EMBED, old, embed_request()) == OK
    changing.path.write_text(changing.path.read_text()[:-40])
    failing = "headwaiter_access_reload_failing"
    changing.until(lambda: changing.process.scrape()[failing] == 1)
    assert [changing.code(EMBED, token, embed_request()) for token in (old, NEW)] == [OK, OK]
    outgoing.put(message)
    next(answers)
    write_access(changing.path, *clients(client(role, NEW)))
    changing.until(lambda: changing.code(EMBED, old, embed_request()) == "UNAUTHENTICATED")
    assert changing.code(EMBED, NEW, embed_request()) == OK
    assert changing.process.scrape()[failing] == 0
    outgoing.put(message)
    with pytest.raises(grpc.RpcError) as ended:
        next(answers)
    assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
    outgoing.put(None)


def test_nothing_secret_is_told(changing: Guarded) -> None:
    """Neither the log, at its most talkative, nor metrics nor errors hold a token or its hash; metrics name clients."""
    assert changing.code(EMBED, TOKENS[Role.INFER], embed_request()) == OK
    secrets = [*TOKENS.values(), SLOW, TEXTS, NEW, "a-token-that-is-not-known"]
    errors = [error_of(changing.channel, EMBED, bearer(token), b"\xff") for token in secrets]
    errors.append(error_of(changing.channel, EMBED, (("authorization", f"Basic {NEW}"),)))
    metrics = changing.process.scrape_text()
    assert 'headwaiter_client_requests_total{client="can-infer",code="OK"}' in metrics
    assert 'code="UNAUTHENTICATED"' in metrics
    said = [
        changing.log.read_text(),
        metrics,
        *(str(error) + str(error.trailing_metadata()) for error in errors if error),
    ]
    for secret in secrets:
        assert not any(secret in text or digest(secret) in text for text in said)


async def test_metadata_that_is_no_text_is_not_told(changing: Guarded) -> None:
    """It is not logged whole either, as gRPC would, with a token in it, and as often as any stranger likes."""
    secret = "a-token-with-a-stray-byte"  # noqa: S105 - of nobody
    headers = ("authorization", f"Bearer {secret}\udcff"), ("headwaiter-fairness-key", "\udcfe")
    wire = await Wire.connect(changing.process.grpc)
    await wire.send(begin_call(1, f"/{EMBED}", *headers), frame(DATA, END_STREAM, 1, message_prefix(0)))
    await wire.until_ended(1, _PATIENCE_SECONDS)
    await wire.close()
    assert wire.ended == 1
    log = changing.log.read_text()
    assert secret not in log
    assert "Traceback" not in log


async def test_message_without_a_token_is_not_waited_for(guarded: Guarded) -> None:
    """Who is not known is refused by the headers alone: it cannot have the server hold what it begins to send."""
    known, stranger = (f"Bearer {token}" for token in (TOKENS[Role.INFER], "a-token-that-is-not-known"))
    wire = await Wire.connect(guarded.process.grpc)
    for stream, value in ((1, known), (3, stranger)):
        half = frame(DATA, 0, stream, message_prefix(1000) + b"half")
        await wire.send(begin_call(stream, f"/{EMBED}", ("authorization", value)), half)
    await wire.until_ended(1, _PATIENCE_SECONDS)
    assert wire.ended == 1
    await wire.send(reset(1))
    await wire.close()
    guarded.until(lambda: guarded.process.scrape().get(UNKNOWN, 0) > 0)


def test_file_that_cannot_be_used_keeps_the_server_from_starting(tmp_path: Path) -> None:
    """It says which client is wrong, and ends."""
    path = write_access(tmp_path / "access.toml", client("ada", NEW, roles='"admin"'))
    ended = run_command("--models", str(tmp_path), "--listen", "127.0.0.1:0", "--access-file", str(path))
    assert ended.returncode == 1
    assert f"--access-file: {path}: client ada: roles[0]: is no role" in ended.stderr
