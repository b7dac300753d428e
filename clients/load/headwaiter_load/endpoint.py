"""Where the server is, and channels to it, as every process of the tester opens them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import grpc
from headwaiter.connection import TLS, ChannelOptions, Connection, Options, prepare

from headwaiter_load.errors import BadInputError, UnreachableError

CONNECT_SECONDS: Final = 10.0
# Of the questions that are asked before a run.
ASK_SECONDS: Final = 10.0
_MESSAGE_BYTES: Final = 512 * 2**20

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server is, how to connect, and what every call carries.

    Attributes:
        target: Any gRPC target.
        tls: How to speak TLS; None for clear text.
        token: Bearer token; needs TLS, except to this machine.
        allow_plaintext_token: Send the token without TLS to other machines too.
        metadata: Further metadata of every call.
        connections: Connections of each process.
    """

    target: str
    tls: TLS | None = None
    token: str | None = field(default=None, repr=False)
    allow_plaintext_token: bool = False
    metadata: Metadata = ()
    connections: int = 1

    def connection(self) -> Connection:
        """What its channels need.

        Raises:
            BadInputError: The parts do not go together, or a file cannot be read.
        """
        try:
            return prepare(
                self.target,
                timeout_seconds=ASK_SECONDS,
                tls=self.tls,
                token=self.token,
                allow_plaintext_token=self.allow_plaintext_token,
                retries=False,
                channel_options=ChannelOptions(max_message_bytes=_MESSAGE_BYTES),
            )
        except (ValueError, OSError) as error:
            raise BadInputError(str(error)) from error

    def ask(self, path: str, request: bytes) -> bytes:
        """One blocking call, for what must be known before a run.

        Raises:
            UnreachableError: It failed.
        """
        connection = self.connection()
        options = connection.options_to_any_health()
        with (
            grpc.insecure_channel(self.target, options)
            if connection.credentials is None
            else grpc.secure_channel(self.target, connection.credentials, options)
        ) as channel:
            method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
            try:
                return method(request, timeout=ASK_SECONDS, metadata=connection.metadata + self.metadata)
            except grpc.RpcError as error:
                code, details = error.code().name, error.details()
                raise UnreachableError(f"{self.target} answers {path} with {code}: {details}") from error


def open_channels(endpoint: Endpoint) -> tuple[list[grpc.aio.Channel], Metadata]:
    """A channel for each connection, and the metadata of calls."""
    connection = endpoint.connection()
    # Health is the server's own business here: what it refuses is to be seen.
    own: Options = (("grpc.use_local_subchannel_pool", 1),)
    options = connection.options_to_any_health() + own
    channels = [
        grpc.aio.insecure_channel(endpoint.target, options)
        if connection.credentials is None
        else grpc.aio.secure_channel(endpoint.target, connection.credentials, options)
        for _ in range(endpoint.connections)
    ]
    return channels, connection.metadata + endpoint.metadata
