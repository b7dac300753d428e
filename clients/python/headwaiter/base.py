"""What the blocking and the asyncio client share: all but how a call is made."""

from __future__ import annotations

import abc
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from headwaiter.connection import (
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT_SECONDS,
    TLS,
    ChannelOptions,
    prepare,
)

if TYPE_CHECKING:
    import grpc

    from headwaiter.connection import Options
    from headwaiter.methods import AnswerStreamMethod, StreamMethod, UnaryMethod

    Method = UnaryMethod[Any, Any, Any] | StreamMethod[Any, Any, Any] | AnswerStreamMethod[Any, Any]

ChannelT = TypeVar("ChannelT", bound="grpc.Channel | grpc.aio.Channel")


class ClientBase(abc.ABC, Generic[ChannelT]):
    """Holds a prepared connection and its channels; subclasses differ only in how they call.

    Where this process uses OpenTelemetry and a span is current, calls tell the server which, so that what the server
    traces of them belongs to it. `metadata` of a call is sent as it is; with a `traceparent` it takes the span's place.

    Args:
        target: Where the server is, as gRPC names it: `HOST:PORT`, `dns:///NAME:PORT` for every address of a
            name, `ipv4:ADDRESS:PORT,ADDRESS:PORT` for several, `unix:PATH`.
        timeout_seconds: Deadline of every call that gives none of its own. The server never starts work whose
            deadline has passed.
        tls: TLS files and names; None speaks clear text.
        token: Bearer token for every call.
        allow_plaintext_token: Send the token without TLS to other machines too.
        retries: Let gRPC try again what the server refused for now, as `SERVICE_CONFIG` says.
        channel_options: Transport settings that rarely need a change.

    Raises:
        ValueError: An argument, or a combination, makes no sense or gives a token away.
        OSError: A TLS file cannot be read.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        tls: TLS | None = None,
        token: str | None = None,
        allow_plaintext_token: bool = False,
        retries: bool = True,
        channel_options: ChannelOptions | None = None,
    ) -> None:
        self._connection = prepare(
            target,
            timeout_seconds=timeout_seconds,
            tls=tls,
            token=token,
            allow_plaintext_token=allow_plaintext_token,
            retries=retries,
            channel_options=channel_options or ChannelOptions(),
        )
        self._closed = False
        # Threads may share a client, and must not each open a channel.
        self._lock = threading.Lock()
        # One channel for work, which leaves out servers that say they are not serving, and one that asks
        # them.
        self._channels: dict[bool, ChannelT] = {}
        self._calls: dict[Method, Any] = {}

    @property
    def target(self) -> str:
        """Where the server is."""
        return self._connection.target

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.target!r})"

    @abc.abstractmethod
    def _open(self, options: Options) -> ChannelT:
        """A new channel to the target; gRPC connects it with its first call."""

    # Any, because what a blocking and an asyncio channel return here share no type.
    def _prepared(self, method: Method) -> Any:  # noqa: ANN401
        """What a channel calls this method by, made once.

        Raises:
            RuntimeError: The client is closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("this client is closed")
            call = self._calls.get(method)
            if call is None:
                call = self._calls[method] = method.on(self._channel(to_any_health=method.to_any_health))
            return call

    def _channel(self, *, to_any_health: bool) -> ChannelT:
        channel = self._channels.get(to_any_health)
        if channel is None:
            connection = self._connection
            options = connection.options_to_any_health() if to_any_health else connection.options
            channel = self._channels[to_any_health] = self._open(options)
        return channel

    def _shut(self) -> list[ChannelT]:
        """Marks the client as closed, and hands over the channels to be closed."""
        with self._lock:
            self._closed = True
            channels = list(self._channels.values())
            self._channels.clear()
            self._calls.clear()
        return channels
