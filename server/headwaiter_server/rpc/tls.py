"""TLS of the gRPC listeners: certificates are shown to new connections as their files are.

gRPC itself takes nothing older than TLS 1.2.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc

from headwaiter_server.certificates import Identity
from headwaiter_server.rereading import Reread


def credentials(identity: Reread[Identity]) -> grpc.ServerCredentials:
    """Credentials for one listener. Each needs its own: gRPC asks for each of them what is new since it last asked."""
    first = identity.current()
    return grpc.dynamic_ssl_server_credentials(
        _configuration(first),
        _news(identity, first),  # type: ignore[arg-type]  # whose types forget the None that it documents
        require_client_authentication=first.authorities is not None,
    )


def _news(identity: Reread[Identity], given: Identity) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
    """What gRPC asks at each handshake, on threads of its own: a new configuration, or None to go on with the last."""

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        now = identity.current()
        if now is given:
            return None
        given = now
        return _configuration(now)

    return fetch


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.pair.key, identity.pair.chain)], root_certificates=identity.authorities
    )
