"""What the settings say of TLS and tokens: combinations, files that cannot be used, and what the metrics tell."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from authority import Authority, Pair
from headwaiter_server.config import ServerSettings, as_toml, load_settings
from headwaiter_server.errors import ConfigError
from headwaiter_server.metrics import Metrics
from headwaiter_server.rpc.tls import _news
from headwaiter_server.wiring.security import Security, open_security
from structlog.testing import capture_logs


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("server")


@pytest.fixture(autouse=True)
def unconfigured_logging() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def load(*flags: object) -> ServerSettings:
    return load_settings(["--models", "m", *map(str, flags)])[0]


def opened(**settings: Any) -> Security:  # noqa: ANN401 - whichever
    return open_security(ServerSettings(models=Path("m"), **settings))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tls-cert", "c"], "--tls-key: belongs together with --tls-cert: give both or neither"),
        (["--tls-key", "k"], "--tls-key: belongs together with --tls-cert: give both or neither (got 'k')"),
        (["--metrics-tls-cert", "c"], "--metrics-tls-key: belongs together with --metrics-tls-cert"),
        (["--metrics-tls-key", "k"], "--metrics-tls-key: belongs together with --metrics-tls-cert"),
        (["--tls-client-ca", "a"], "--tls-client-ca: only TLS asks clients for certificates, which takes --tls-cert"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(flags: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(*flags)
    assert str(caught.value).startswith(words)


def test_settings_are_printed_as_they_are_read(tmp_path: Path) -> None:
    """A file that is not set is not there; one that is comes back."""
    assert not {"tls_cert", "tls_client_ca", "metrics_token_file"} & tomllib.loads(as_toml(load())).keys()
    settings = load("--tls-cert", "c", "--tls-key", "k", "--metrics-token-file", "t")
    file = tmp_path / "settings.toml"
    file.write_text(as_toml(settings))
    assert load("--config", file).model_dump() == settings.model_dump()
    assert (settings.tls_cert, settings.metrics_token_file) == (Path("c"), Path("t"))


def test_without_settings_nothing_is_secured_and_nothing_told() -> None:
    security = opened()
    assert (security.grpc, security.metrics_context, security.gate) == (None, None, None)
    assert _told(security) == {}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tls_cert": "key", "tls_key": "key"}, "--tls-cert: .*: holds no certificate"),
        ({"tls_cert": "certificate", "tls_key": "other"}, "--tls-key: .* is not the key of"),
        ({"tls_cert": "certificate", "tls_key": "key", "tls_client_ca": "key"}, "--tls-client-ca: .*: holds no cert"),
        ({"metrics_tls_cert": "certificate", "metrics_tls_key": "other"}, "--metrics-tls-key: .* is not the key of"),
        ({"metrics_token_file": "nowhere"}, "--metrics-token-file: .*: No such file"),
    ],
)
def test_files_that_cannot_be_used_are_named_with_their_setting(
    authority: Authority, pair: Pair, settings: dict[str, str], words: str
) -> None:
    other = authority.issue("other").key
    files = {"certificate": pair.certificate, "key": pair.key, "other": other, "nowhere": Path("nowhere")}
    with pytest.raises(ConfigError, match=words):
        opened(**{name: files[file] for name, file in settings.items()})


def test_metrics_tell_of_both_ports(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    """When the certificates expire, and that a broken one came into the place of one, without any handshake."""
    own = Pair(tmp_path / "m.pem", tmp_path / "m.key")
    pair.copy_to(own)
    security = opened(
        tls_cert=pair.certificate, tls_key=pair.key, metrics_tls_cert=own.certificate, metrics_tls_key=own.key
    )
    assert security.grpc is not None
    assert security.metrics is not None
    expires = security.grpc.current().expires
    told = {
        'tls_certificate_expiry_timestamp_seconds{listener="grpc"}': expires,
        'tls_certificate_expiry_timestamp_seconds{listener="metrics"}': expires,
        'tls_reload_failing{listener="grpc"}': 0.0,
        'tls_reload_failing{listener="metrics"}': 0.0,
    }
    assert _told(security) == told
    own.key.write_bytes(authority.issue("another").key.read_bytes())
    security.metrics._due = 0.0
    assert _told(security) == told | {'tls_reload_failing{listener="metrics"}': 1.0}
    authority.issue("longer", days=3).copy_to(own)
    security.metrics._due = 0.0
    found = _told(security)
    assert found.pop('tls_certificate_expiry_timestamp_seconds{listener="metrics"}') > expires + 80_000
    assert found.items() <= told.items()


def _told(security: Security) -> dict[str, float]:
    """What the metrics say of TLS."""
    metrics = Metrics()
    security.watch(metrics)
    return {
        f'{sample.name.removeprefix("headwaiter_")}{{listener="{sample.labels["listener"]}"}}': sample.value
        for family in metrics.collect()
        if family.name.startswith("headwaiter_tls_")
        for sample in family.samples
    }


def test_each_listener_hears_of_a_new_certificate_once(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    """GRPC asks at each handshake; nothing new is None. A second listener hears of it for itself."""
    own = Pair(tmp_path / "s.pem", tmp_path / "s.key")
    pair.copy_to(own)
    identity = opened(tls_cert=own.certificate, tls_key=own.key).grpc
    assert identity is not None
    first, second = _news(identity, identity.current()), _news(identity, identity.current())
    assert first() is None
    authority.issue("new").copy_to(own)
    identity._due = 0.0
    assert first() is not None
    assert first() is None
    assert second() is not None
    assert second() is None


def test_what_may_be_an_oversight_is_logged(authority: Authority, tmp_path: Path) -> None:
    """A certificate that has expired, and a token that is asked for in clear text; neither keeps the server."""
    late = authority.issue("late", days=-1)
    token = tmp_path / "token"
    token.write_text(b"open, sesame".hex())
    with capture_logs() as log:
        opened(tls_cert=late.certificate, tls_key=late.key)
        for listener in ("127.0.0.1:0", "0.0.0.0:0"):
            opened(metrics_listen=listener, metrics_token_file=token)
    assert [(line["event"], line["listener"]) for line in log] == [
        ("certificate_expired", "grpc"),
        ("metrics_token_in_clear_text", "0.0.0.0:0"),
    ]
