"""Who comes through the gate: by token, role and quota, on a clock that only the test moves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import inference_pb2
from headwaiter_server import rereading
from headwaiter_server.access.gate import Door, Gate, Metadata
from headwaiter_server.access.quotas import Bucket
from headwaiter_server.access.roles import HEALTH_METHODS, METHOD_ROLES, Role
from headwaiter_server.access.watch import AccessWatch
from headwaiter_server.errors import NotAllowedError, QuotaExceededError, UnauthenticatedError
from headwaiter_server.metrics import Metrics
from headwaiter_server.rpc.crossing import FAIRNESS_KEY, PRIORITY_KEY, Crossing, terms_of
from headwaiter_server.rpc.edge import Edge
from headwaiter_server.scheduling.admission import Admission, Permit
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import LogCapture

from .access_files import ADA, BOB, EVE, bearer, client, write_access

EMBED = "headwaiter.v1.InferenceService/Embed"
LOAD = "inference.GRPCInferenceService/RepositoryModelLoad"
CHECK = "grpc.health.v1.Health/Check"


class Clock:
    """Time that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(tmp_path: Path, clock: Clock) -> AccessWatch:
    path = write_access(
        tmp_path / "access.toml",
        client("ada", ADA, more="max_calls_per_second = 2\ncalls_burst = 3\nmax_texts_per_second = 10"),
        client("bob", BOB, roles='"observe", "control"', more="weight = 3\nhighest_priority = 2"),
    )
    return AccessWatch(path, health_open=True, clock=clock)


def door(gate: Gate, method: str = EMBED) -> Door:
    found = gate.door(method)
    assert found is not None
    return found


SERVICES: list[Any] = [
    *inference_pb2.DESCRIPTOR.services_by_name.values(),
    *grpc_service_pb2.DESCRIPTOR.services_by_name.values(),
    *health_pb2.DESCRIPTOR.services_by_name.values(),
    *reflection_pb2.DESCRIPTOR.services_by_name.values(),
]


def test_every_method_of_every_service_takes_a_role() -> None:
    """A method that nobody has thought about cannot be offered, and none is listed that there is not."""
    offered = {f"{service.full_name}/{method.name}" for service in SERVICES for method in service.methods}
    assert offered == METHOD_ROLES.keys()
    assert offered > HEALTH_METHODS
    assert all(METHOD_ROLES.values())


def test_role_that_infers_changes_nothing_and_the_other_way_round() -> None:
    """What changes the server takes a role that inference does not have; what runs a model takes `infer`."""
    changing = {method for method, roles in METHOD_ROLES.items() if roles == {Role.CONTROL}}
    assert {method.rpartition("/")[2] for method in changing} == {
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
    }
    inferring = {method.rpartition("/")[2] for method, roles in METHOD_ROLES.items() if roles == {Role.INFER}}
    assert inferring == {
        "Generate", "GenerateStream", "Embed", "EmbedStream", "Classify", "Tag", "Rerank", "Tokenize", "ModelInfer",
        "ModelStreamInfer",
    }  # fmt: skip


def test_method_without_a_role_is_not_offered(watch: AccessWatch) -> None:
    """The server does not start with it, rather than let in anybody or nobody."""
    with pytest.raises(KeyError):
        watch.gate.door("headwaiter.v1.InferenceService/New")


def test_known_token_with_the_role_comes_in(watch: AccessWatch) -> None:
    """Whoever shows a token is known by it, however the scheme is written."""
    assert door(watch.gate).enter(bearer(ADA)).name == "ada"
    assert door(watch.gate).enter((("authorization", f"bearer  {ADA} "), ("x", b"\0"))).name == "ada"
    assert door(watch.gate, LOAD).enter(bearer(BOB)).name == "bob"


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        (),
        bearer(EVE),
        bearer(ADA.upper()),
        bearer(ADA[:-1]),
        bearer(f"{ADA}x"),
        bearer(""),
        bearer(f"{ADA} {ADA}"),
        bearer(ADA) * 2,
        (("authorization", f"Basic {ADA}"),),
        (("authorization", ADA),),
        (("authorization", f"Bearer {ADA}".encode()),),
        (("x-authorization", f"Bearer {ADA}"),),
        bearer("\udcff\x00 é"),
    ],
)
def test_nobody_else_comes_in(watch: AccessWatch, metadata: Metadata | None) -> None:
    """No token, a wrong one, a part of one, two, or another scheme: who calls is not known, and is told no more."""
    with pytest.raises(UnauthenticatedError) as refused:
        door(watch.gate).enter(metadata)
    assert ADA not in str(refused.value)
    assert "client" not in str(refused.value)


def test_role_is_asked_of_each_method(watch: AccessWatch) -> None:
    """A client without the role is told which one it takes, and its quota is not touched."""
    for _ in range(5):
        with pytest.raises(NotAllowedError, match=f"the client ada may not call {LOAD}: that takes the role control"):
            door(watch.gate, LOAD).enter(bearer(ADA))
    with pytest.raises(NotAllowedError, match="the role infer"):
        door(watch.gate).enter(bearer(BOB))
    door(watch.gate).enter(bearer(ADA))


def test_open_health_needs_no_token(watch: AccessWatch) -> None:
    """Where health is open, what tells whether something serves has no door; where it is closed, every role will do."""
    assert all(watch.gate.door(method) is None for method in HEALTH_METHODS)
    closed = Gate(watch.gate.clients, health_open=False)
    assert [door(closed, CHECK).enter(bearer(token)).name for token in (ADA, BOB)] == ["ada", "bob"]
    with pytest.raises(UnauthenticatedError):
        door(closed, CHECK).enter(())


def test_calls_are_let_in_up_to_the_burst_and_then_at_the_rate(watch: AccessWatch, clock: Clock) -> None:
    """Who has used up its quota is told when there is more, and is let in then; others are not held up."""
    way = door(watch.gate)
    for _ in range(3):
        way.enter(bearer(ADA))
    with pytest.raises(QuotaExceededError, match="the client ada is used up: 2 calls a second, 3 at once") as refused:
        way.enter(bearer(ADA))
    assert refused.value.retry_after_seconds == pytest.approx(0.5)
    door(watch.gate, LOAD).enter(bearer(BOB))
    clock.now += refused.value.retry_after_seconds
    way.enter(bearer(ADA))
    with pytest.raises(QuotaExceededError):
        way.enter(bearer(ADA))
    clock.now += 1000
    for _ in range(3):
        way.enter(bearer(ADA))
    with pytest.raises(QuotaExceededError):
        way.enter(bearer(ADA))


def test_messages_of_a_stream_are_calls(watch: AccessWatch, clock: Clock) -> None:
    """To open one counts, and so does each message."""
    visitor = door(watch.gate).open(bearer(ADA))
    visitor.pay()
    visitor.client().take_call(clock())
    with pytest.raises(QuotaExceededError):
        visitor.pay()


def test_texts_have_a_quota_of_their_own(watch: AccessWatch, clock: Clock) -> None:
    """More texts than may come at once are let through by a full bucket, and paid for afterwards."""
    ada, bob = (watch.gate.clients.by_name[name] for name in ("ada", "bob"))
    take = ada.text_quota(clock)
    assert take is not None
    assert bob.text_quota(clock) is None
    take(25)
    with pytest.raises(QuotaExceededError, match="10 texts a second") as refused:
        take(1)
    assert refused.value.retry_after_seconds == pytest.approx(1.6)
    clock.now += 1.6
    take(1)


@given(
    per_second=st.floats(0.01, 1e4),
    burst=st.floats(1, 1e4),
    steps=st.lists(st.tuples(st.floats(0, 10), st.integers(1, 2000)), min_size=1, max_size=50),
)
def test_nobody_gets_more_than_the_burst_and_the_rate(
    per_second: float, burst: float, steps: list[tuple[float, int]]
) -> None:
    """Whatever comes when: never more than the burst and what has flowed in, but for one call; and a wait is enough."""
    bucket, now, taken = Bucket(per_second, burst), 50.0, 0.0
    for pause, count in steps:
        now += pause
        wait = bucket.take(count, now)
        if wait:
            assert bucket.take(count, now + wait * 0.999 - 1e-6) > 0
            now += wait
            assert bucket.take(count, now) == 0
        taken += count
        assert taken - max(0.0, count - burst) <= burst + per_second * (now - 50.0) + 1e-3


def test_clock_that_goes_back_fills_nothing() -> None:
    """Time is what the scheduler says; it never gives twice."""
    bucket = Bucket(1, 1)
    assert [bucket.take(1, now) for now in (10.0, 5.0, 10.0, 10.5, 11.0)] == [0, 1, 1, 0.5, 0]


class Context:
    """A call with metadata."""

    def __init__(self, *metadata: tuple[str, str]) -> None:
        self._metadata = metadata

    def time_remaining(self) -> None:
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata


def test_client_is_its_fairness_key_and_bounds_its_level(watch: AccessWatch) -> None:
    """Nobody takes another's share, or a level above its own, by what it says of itself."""
    ada, bob = (watch.gate.clients.by_name[name] for name in ("ada", "bob"))
    context: Any = Context((FAIRNESS_KEY, "bob"), (PRIORITY_KEY, "1"))
    terms = [terms_of(0.0, context, each) for each in (None, ada, bob)]
    assert [(each.fairness_key, each.weight, each.priority) for each in terms] == [
        ("bob", 1.0, 1), ("ada", 1.0, 4), ("bob", 3.0, 2)
    ]  # fmt: skip
    for asked, level in ((1, 2), (9, 9), (0, 2)):
        crossing = Crossing(terms[2], client=bob)
        crossing.hurry(None, asked)
        assert crossing.terms.priority == level


async def test_question_without_a_token_takes_no_clients_place(watch: AccessWatch, clock: Clock) -> None:
    """Where health is open nobody is asked for a name, and the name of a client is not believed either."""
    edge, keys = Edge(Admission(10, 1000, shared=True), Metrics(), clock, gate=watch.gate), list[str]()

    async def live(_request: bytes, permit: Permit, _crossing: Crossing) -> bytes:
        keys.append(permit.held.key)
        return b"live"

    context: Any = Context((FAIRNESS_KEY, "ada"))
    ask = edge.unary("inference.GRPCInferenceService/ServerLive", live, always=True)
    assert await ask(b"", context) == b"live"
    assert keys == [""]


def test_reading_a_setting_is_not_writing_it(watch: AccessWatch) -> None:
    """A role is asked for also where only the message tells what is wanted; where everybody may call, nobody is."""
    Crossing(terms_of(0.0, Context())).require(Role.CONTROL, "change what is logged")  # type: ignore[arg-type]
    ada, bob = (watch.gate.clients.by_name[name] for name in ("ada", "bob"))
    Crossing(terms_of(0.0, Context(), bob), client=bob).require(Role.CONTROL, "change what is logged")  # type: ignore[arg-type]
    with pytest.raises(NotAllowedError, match="ada may not change what is logged: that takes the role control"):
        Crossing(terms_of(0.0, Context(), ada), client=ada).require(Role.CONTROL, "change what is logged")  # type: ignore[arg-type]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> LogCapture:
    capture = LogCapture()
    monkeypatch.setattr(rereading, "_log", structlog.wrap_logger(None, processors=[capture]))
    return capture


async def look(watch: AccessWatch) -> None:
    """Look, whenever that was last done."""
    watch._file._due = 0.0
    await watch.look()


async def test_tokens_are_rotated_and_revoked_while_streams_are_open(
    watch: AccessWatch, tmp_path: Path, logged: LogCapture
) -> None:
    """A new token comes in beside the old one; the old one, once it is gone, neither begins nor goes on."""
    visitor = door(watch.gate).open(bearer(ADA))
    path = write_access(tmp_path / "access.toml", client("ada", ADA, EVE))
    await look(watch)
    assert {door(watch.gate).enter(bearer(token)).name for token in (ADA, EVE)} == {"ada"}
    assert visitor.client().name == "ada"
    write_access(path, client("ada", EVE))
    await look(watch)
    for refused in (visitor.client, visitor.pay, lambda: door(watch.gate).enter(bearer(ADA))):
        with pytest.raises(UnauthenticatedError):
            refused()
    write_access(path, client("ada", EVE, roles='"observe"'))
    await look(watch)
    with pytest.raises(NotAllowedError):
        door(watch.gate).enter(bearer(EVE))
    assert [entry["event"] for entry in logged.entries] == ["changed_files_taken"] * 3


async def test_broken_file_changes_nothing_and_is_told_once(
    watch: AccessWatch, tmp_path: Path, logged: LogCapture
) -> None:
    """Half a file, none at all, a wrong one: whoever was let in is still, until it is mended."""
    path, before = tmp_path / "access.toml", watch.gate.clients
    whole = path.read_text(encoding="utf-8")
    for broken in (whole[:-20], "", "secret = 1", None):
        path.unlink() if broken is None else path.write_text(broken, encoding="utf-8")
        await look(watch)
        await look(watch)
        assert watch.failing
        assert watch.gate.clients is before
    assert [entry["event"] for entry in logged.entries] == ["changed_files_not_taken"] * 4
    write_access(path, client("eve", EVE))
    await look(watch)
    assert not watch.failing
    assert door(watch.gate).enter(bearer(EVE)).name == "eve"


async def test_watch_goes_on_whatever_happens(watch: AccessWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in a look is logged, and the next one is made."""

    def break_down() -> None:
        raise RuntimeError

    monkeypatch.setattr(watch._file, "current", break_down)
    await watch.look()
    monkeypatch.undo()
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
