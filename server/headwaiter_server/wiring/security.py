"""What the settings say of TLS and tokens, opened: files are read, checked, and read again when they change."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headwaiter_server.certificates import Identity, KeyPair, read_authorities, read_pair
from headwaiter_server.config import ServerSettings, is_local
from headwaiter_server.log import get_logger
from headwaiter_server.metrics import Metrics, definitions
from headwaiter_server.metrics.gate import Gate
from headwaiter_server.rereading import Reread

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Security:
    """Certificates and tokens of the ports.

    Attributes:
        grpc: What the gRPC listeners show; None where they speak clear text.
        metrics: The certificate of the metrics port; None likewise.
        gate: Who may read the metrics; None lets in everybody.
    """

    grpc: Reread[Identity] | None
    metrics: Reread[KeyPair] | None
    gate: Gate | None

    @property
    def metrics_context(self) -> Callable[[], ssl.SSLContext] | None:
        """What gives the metrics port the certificate for a new connection; None for clear text."""
        pair = self.metrics
        return None if pair is None else lambda: pair.current().context

    def watch(self, metrics: Metrics) -> None:
        """Have the metrics tell when certificates expire, and whether changed ones cannot be taken."""
        shown = {"grpc": self.grpc, "metrics": self.metrics}
        opened = {listener: each for listener, each in shown.items() if each is not None}
        # To ask is to look whether the files have changed: it is seen without a handshake, too.
        metrics.watch(
            definitions.TLS_CERTIFICATE_EXPIRY,
            lambda: {listener: each.current().expires for listener, each in opened.items()},
        )
        metrics.watch(
            definitions.TLS_RELOAD_FAILING,
            lambda: {listener: float(each.failing) for listener, each in opened.items()},
        )


def open_security(settings: ServerSettings) -> Security:
    """Read what the settings name.

    Raises:
        ConfigError: A file cannot be used; it names the setting.
    """
    grpc = metrics = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        grpc = _open_identity(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        _check_expiry("grpc", grpc.current().pair)
    if settings.metrics_tls_cert is not None and settings.metrics_tls_key is not None:
        metrics = _open_pair(settings.metrics_tls_cert, settings.metrics_tls_key)
        _check_expiry("metrics", metrics.current())
    gate = None if settings.metrics_token_file is None else Gate(settings.metrics_token_file)
    if gate is not None and metrics is None and not is_local(settings.metrics_listen):
        _log.warning("metrics_token_in_clear_text", listener=settings.metrics_listen)
    return Security(grpc, metrics, gate)


def _open_identity(certificate: Path, key: Path, client_ca: Path | None) -> Reread[Identity]:
    def read() -> Identity:
        authorities = None if client_ca is None else read_authorities(client_ca, "--tls-client-ca")
        return Identity(read_pair(certificate, key, ("--tls-cert", "--tls-key")), authorities)

    paths = [certificate, key] if client_ca is None else [certificate, key, client_ca]
    return Reread("the certificate of the gRPC listeners", paths, read)


def _open_pair(certificate: Path, key: Path) -> Reread[KeyPair]:
    flags = ("--metrics-tls-cert", "--metrics-tls-key")
    return Reread("the certificate of the metrics port", [certificate, key], lambda: read_pair(certificate, key, flags))


def _check_expiry(listener: str, pair: KeyPair) -> None:
    # It is for clients to refuse it: this machine's clock may be the one that is wrong.
    if pair.expires <= time.time():
        _log.warning("certificate_expired", listener=listener)
