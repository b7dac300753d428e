from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
import headwaiter
import pytest
from google.rpc import error_details_pb2
from headwaiter import AsyncClient, Client, HeadwaiterError, errors
from headwaiter.status import told_by_server
from unit.client.scripted_server import bad_request, refuse, retry_info

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message
    from unit.client.scripted_server import ScriptedServer

Code = grpc.StatusCode

CASES: list[tuple[Code, Message | None, type[HeadwaiterError], dict[str, Any]]] = [
    (
        Code.INVALID_ARGUMENT,
        bad_request("texts[3]", "has 70 tokens; the limit is 64"),
        headwaiter.InvalidRequestError,
        {"field": "texts[3]", "description": "has 70 tokens; the limit is 64"},
    ),
    (Code.INVALID_ARGUMENT, None, headwaiter.InvalidRequestError, {"field": "", "description": "so it is"}),
    (Code.NOT_FOUND, None, headwaiter.NotFoundError, {}),
    (Code.UNAUTHENTICATED, None, headwaiter.UnauthenticatedError, {}),
    (Code.PERMISSION_DENIED, None, headwaiter.PermissionDeniedError, {}),
    (Code.RESOURCE_EXHAUSTED, None, headwaiter.ResourceExhaustedError, {"retry_after_seconds": None}),
    (Code.RESOURCE_EXHAUSTED, retry_info(0.5), headwaiter.ResourceExhaustedError, {"retry_after_seconds": 0.5}),
    (Code.UNAVAILABLE, retry_info(1.25), headwaiter.OverloadedError, {"retry_after_seconds": 1.25}),
    (
        Code.UNAVAILABLE,
        error_details_pb2.RetryInfo(),
        headwaiter.OverloadedError,
        {"retry_after_seconds": None},
    ),
    (Code.UNAVAILABLE, None, headwaiter.ServerUnreachableError, {"reason": "so it is"}),
    (Code.DEADLINE_EXCEEDED, None, headwaiter.DeadlineExceededError, {}),
    (Code.CANCELLED, None, headwaiter.CallCancelledError, {}),
    (Code.UNIMPLEMENTED, None, headwaiter.NotSupportedError, {}),
    (
        Code.INTERNAL,
        error_details_pb2.RequestInfo(request_id="7f3a"),
        headwaiter.InternalServerError,
        {"error_id": "7f3a"},
    ),
    (Code.INTERNAL, None, headwaiter.InternalServerError, {"error_id": None}),
    (Code.UNKNOWN, None, headwaiter.InternalServerError, {"error_id": None}),
    (Code.FAILED_PRECONDITION, None, HeadwaiterError, {}),
]


@pytest.mark.parametrize(("code", "detail", "kind", "fields"), CASES)
async def test_each_status_raises_its_exception(
    serve: Callable[..., ScriptedServer],
    code: Code,
    detail: Message | None,
    kind: type[HeadwaiterError],
    fields: dict[str, Any],
) -> None:
    """A status and its details become one exception with fields, the same from both clients."""
    server = serve({"Generate": lambda request, context: refuse(context, code, "so it is", detail=detail)})
    with Client(server.target, retries=False) as client, pytest.raises(HeadwaiterError) as blocking:
        client.generate("a")
    async with AsyncClient(server.target, retries=False) as async_client:
        with pytest.raises(HeadwaiterError) as awaited:
            await async_client.generate("a")
    for error in (blocking.value, awaited.value):
        assert type(error) is kind
        assert {name: getattr(error, name) for name in fields} == fields
        assert "so it is" in str(error)
        assert isinstance(error.__cause__, grpc.RpcError)
        assert error.__cause__.code() is code
    assert vars(blocking.value) == vars(awaited.value)


def test_pushback_without_details_is_overload(serve: Callable[..., ScriptedServer]) -> None:
    """A server that pushes back is there, even if it does not say for how long it is busy."""
    server = serve({"Generate": lambda request, context: refuse(context, Code.UNAVAILABLE, pushback="-1")})
    with Client(server.target) as client, pytest.raises(headwaiter.OverloadedError) as caught:
        client.generate("a")
    assert caught.value.retry_after_seconds is None


@pytest.mark.parametrize(
    ("said", "asks"),
    [
        ("connections to all backends failing; last error: ipv4:127.0.0.1:1: Socket closed", True),
        ("Socket closed", False),
    ],
)
def test_closed_connections_are_asked_about_tls(
    serve: Callable[..., ScriptedServer],
    said: str,
    asks: bool,  # noqa: FBT001 - what is expected
) -> None:
    """The transport says no more of a server with TLS that is called without; a server that died is another matter."""
    server = serve({"Generate": lambda request, context: refuse(context, Code.UNAVAILABLE, said)})
    with Client(server.target, retries=False) as client, pytest.raises(headwaiter.ServerUnreachableError) as caught:
        client.generate("a")
    assert ("speak TLS" in str(caught.value)) is asks
    assert caught.value.reason == said


def test_unreadable_details_leave_the_status(serve: Callable[..., ScriptedServer]) -> None:
    """Garbage in the details does not hide what happened."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(Code.INVALID_ARGUMENT, "so it is")
        raise AssertionError

    with Client(serve({"Generate": answer}).target) as client, pytest.raises(HeadwaiterError) as caught:
        client.generate("a")
    assert type(caught.value) is headwaiter.InvalidRequestError
    assert str(caught.value) == "so it is"


def test_a_status_without_message_is_named(serve: Callable[..., ScriptedServer]) -> None:
    """No exception is without words."""
    server = serve({"Generate": lambda request, context: refuse(context, Code.PERMISSION_DENIED)})
    with Client(server.target) as client, pytest.raises(HeadwaiterError, match=r"^permission denied$"):
        client.generate("a")


def test_no_server_is_unreachable(serve: Callable[..., ScriptedServer]) -> None:
    """A port where nothing listens is told apart from a busy server, with the target and the reason."""
    server = serve()
    server.stop()
    with Client(server.target, retries=False) as client, pytest.raises(HeadwaiterError) as caught:
        client.generate("a")
    assert isinstance(caught.value, headwaiter.ServerUnreachableError)
    assert caught.value.target == server.target
    assert "Connection refused" in caught.value.reason


def test_the_tree_is_drawn_whole() -> None:
    """The module's drawing names every class, and all have one root."""
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert all(issubclass(kind, HeadwaiterError) for kind in classes)
    drawn = [line.split()[1] for line in (errors.__doc__ or "").splitlines() if "-- " in line]
    assert drawn == [kind.__name__ for kind in classes if kind is not HeadwaiterError]


def test_exceptions_cross_processes() -> None:
    """Exceptions keep their fields when pickled, as process pools do."""
    error = headwaiter.InvalidRequestError("message", "texts[0]", "is wrong")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (str(copy), copy.field, copy.description) == ("message", "texts[0]", "is wrong")


class _Ending:
    """A stream whose writing failed before its status had come."""

    def __init__(self, *errors: grpc.RpcError | None) -> None:
        self.errors = list(errors)

    async def read(self) -> object:
        error = self.errors.pop(0)
        if error is not None:
            raise error
        return grpc.aio.EOF


def aio_error(code: Code, details: str) -> grpc.RpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


async def test_the_servers_status_counts_not_what_grpc_says_of_an_unsent_message() -> None:
    """It is waited for, until it is there; any other error is the server's own."""
    unsent, refused = aio_error(Code.INTERNAL, "Internal error from Core"), aio_error(Code.UNAVAILABLE, "leaving")
    late = _Ending(unsent, None, refused)
    assert await told_by_server(cast("Any", late), unsent) is refused
    assert late.errors == []
    own = aio_error(Code.INTERNAL, "internal error 7f3a")
    assert await told_by_server(cast("Any", _Ending()), own) is own
