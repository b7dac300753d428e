"""What a channel needs to know, prepared once and alike for the blocking and the asyncio client."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc

from headwaiter.service_config import SERVICE_CONFIG, SERVICE_CONFIG_WITHOUT_RETRIES
from headwaiter.targets import is_local
from headwaiter.trace_context import TRACEPARENT, current_trace

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

DEFAULT_TARGET: Final = "127.0.0.1:8001"
DEFAULT_TIMEOUT_SECONDS: Final = 10.0

_METADATA_KEY: Final = re.compile(r"[0-9a-z_.-]+")

Options = tuple[tuple[str, str | int], ...]

# gRPC retries only what it still holds in full, 256 KiB by default: a call of many texts would silently get
# one attempt. As large as the largest request that a server takes by default.
_RETRY_BUFFER_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class TLS:
    """How to speak TLS.

    Attributes:
        ca_file: PEM file of the authorities to trust; None takes those that gRPC ships.
        cert_file: PEM file of this client's certificate chain, for servers that ask for one. Needs
            `key_file`.
        key_file: PEM file of this client's private key.
        server_name: The name that the server's certificate must hold, where it differs from the target's.
    """

    ca_file: str | os.PathLike[str] | None = None
    cert_file: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or neither")


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """Transport settings that rarely need a change.

    Attributes:
        keepalive_seconds: How long a connection with calls may be silent before a ping asks whether the
            server is still there. Unless it is set up otherwise, a gRPC server cuts off clients that ping
            more often than every five minutes, and the health check keeps a call open on every connection:
            lower this only together with the server's `grpc.http2.min_ping_interval_without_data_ms`.
            Sent data that nobody acknowledges is noticed after `keepalive_timeout_seconds` in any case.
        keepalive_timeout_seconds: How long a ping, or sent data, may stay unacknowledged before the
            connection is given up.
        max_message_bytes: The largest message to send or accept.
        wait_for_ready: Let calls wait, within their deadline, for a server that is not there yet, instead of
            failing.
    """

    keepalive_seconds: float = 330.0
    keepalive_timeout_seconds: float = 10.0
    max_message_bytes: int = 64 * 2**20
    wait_for_ready: bool = False


@dataclass(frozen=True, slots=True)
class Connection:
    """A validated target with everything that its channels and calls carry.

    Attributes:
        target: Where to connect.
        timeout_seconds: Deadline of a call that gives none.
        credentials: What a secure channel takes; None for clear text.
        metadata: What every call carries.
        options: Channel arguments.
        wait_for_ready: As in `ChannelOptions`.
    """

    target: str
    timeout_seconds: float
    credentials: grpc.ChannelCredentials | None = field(repr=False)
    metadata: tuple[tuple[str, str], ...] = field(repr=False)
    options: Options
    wait_for_ready: bool

    def deadline_seconds(self, timeout_seconds: float | None) -> float:
        """The deadline of one call: its own, or else the client's.

        Raises:
            ValueError: It is not a positive, finite number.
        """
        return self.timeout_seconds if timeout_seconds is None else _checked_timeout(timeout_seconds)

    def call_metadata(self, given: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
        """The metadata of one call: the client's, the call's own and, unless that names a trace, the current span.

        Raises:
            ValueError: gRPC takes no such metadata.
        """
        metadata = self.metadata
        if given:
            metadata = (*metadata, *(_checked_pair(key, value) for key, value in given.items()))
            if TRACEPARENT in given:
                return metadata
        return (*metadata, *current_trace())

    def options_to_any_health(self) -> Options:
        """Channel arguments that let calls through to servers that say they are not serving."""
        return (*self.options, ("grpc.inhibit_health_checking", 1))


def prepare(
    target: str,
    *,
    timeout_seconds: float,
    tls: TLS | None,
    token: str | None,
    allow_plaintext_token: bool,
    retries: bool,
    channel_options: ChannelOptions,
) -> Connection:
    """Checks a client's arguments and reads the files they name.

    Raises:
        ValueError: An argument, or a combination, makes no sense or gives a token away.
        OSError: A TLS file cannot be read.
    """
    local = is_local(target)
    if token is not None and not (token and token.isascii() and token.isprintable() and " " not in token):
        raise ValueError("a token is printable ASCII without spaces or line ends: what a file holds wants strip()")
    if token is not None and tls is None and not (local or allow_plaintext_token):
        raise ValueError(f"a token would travel to {target} in clear text: give tls, or allow_plaintext_token=True")
    return Connection(
        target=target,
        timeout_seconds=_checked_timeout(timeout_seconds),
        credentials=None if tls is None else _credentials(tls, token),
        metadata=(("authorization", f"Bearer {token}"),) if token is not None and tls is None else (),
        options=_options(tls, channel_options, retries=retries, local=local),
        wait_for_ready=channel_options.wait_for_ready,
    )


def _checked_pair(key: str, value: str) -> tuple[str, str]:
    if not _METADATA_KEY.fullmatch(key) or key.startswith("grpc-") or key.endswith("-bin"):
        raise ValueError(
            f"metadata {key!r}: a key is lower-case letters, digits, _, - and ., and neither grpc-... nor ...-bin"
        )
    if not (value.isascii() and value.isprintable()):
        raise ValueError(f"metadata {key!r}: a value is printable ASCII characters")
    return key, value


def _checked_timeout(timeout_seconds: float) -> float:
    if not (timeout_seconds > 0 and math.isfinite(timeout_seconds)):
        raise ValueError(f"timeout_seconds is {timeout_seconds}; every call has a deadline, positive and finite")
    return timeout_seconds


def _credentials(tls: TLS, token: str | None) -> grpc.ChannelCredentials:
    channel = grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca_file),
        private_key=_read(tls.key_file),
        certificate_chain=_read(tls.cert_file),
    )
    if token is None:
        return channel
    # As call credentials the token is bound to TLS by gRPC itself, and never sent without.
    return grpc.composite_channel_credentials(channel, grpc.access_token_call_credentials(token))


def _read(path: str | os.PathLike[str] | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def _options(tls: TLS | None, channel: ChannelOptions, *, retries: bool, local: bool) -> Options:
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", SERVICE_CONFIG if retries else SERVICE_CONFIG_WITHOUT_RETRIES),
        # Otherwise a TXT record beside the target's address could replace the config above.
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_retries", int(retries)),
        ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
        ("grpc.keepalive_time_ms", round(channel.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", round(channel.keepalive_timeout_seconds * 1000)),
        ("grpc.keepalive_permit_without_calls", 0),
        # A server that was away for long is found again within seconds; gRPC's own bound is two minutes.
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.max_send_message_length", channel.max_message_bytes),
        ("grpc.max_receive_message_length", channel.max_message_bytes),
    ]
    if local:
        # http_proxy in the environment must not carry calls for this machine, and perhaps a token, elsewhere.
        options.append(("grpc.enable_http_proxy", 0))
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
        options.append(("grpc.default_authority", tls.server_name))
    return tuple(options)
