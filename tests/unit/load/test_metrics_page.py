"""The server's metrics page: how one gets in, and where a token never goes."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from authority import Authority
from headwaiter_load.metrics_page import MetricsError, MetricsPage

TOKEN = "s3cret"  # noqa: S105 - of this test


class _Site(ThreadingHTTPServer):
    """Answers with who was let in: what each request showed; leads elsewhere if it is told to."""

    daemon_threads = True

    def __init__(self, leads_to: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.leads_to = leads_to
        self.shown: list[str | None] = []


class _Handler(BaseHTTPRequestHandler):
    server: _Site

    def do_GET(self) -> None:
        self.server.shown.append(self.headers["Authorization"])
        if self.server.leads_to is not None:
            self.send_response(302)
            self.send_header("Location", self.server.leads_to)
        else:
            self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def _running(site: _Site) -> Iterator[_Site]:
    thread = threading.Thread(target=site.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        thread.join()
        site.server_close()


def test_the_token_is_shown_by_http_on_this_machine_and_not_where_that_leads() -> None:
    with _running(_Site()) as other, _running(_Site(f"http://127.0.0.1:{other.server_port}/")) as site:
        MetricsPage(f"http://127.0.0.1:{site.server_port}/metrics", token=TOKEN).read()
    assert site.shown == [f"Bearer {TOKEN}"]
    assert other.shown == [None]


def test_no_proxy_carries_what_stays_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says: the proxy would read the token."""
    with _running(_Site()) as proxy, _running(_Site()) as site:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
        MetricsPage(f"http://localhost:{site.server_port}/metrics", token=TOKEN).read()
    assert (len(proxy.shown), len(site.shown)) == (0, 1)


def test_https_trusts_the_authority_that_is_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    pair = authority.issue("metrics")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with _running(_Site()) as site:
        site.socket = context.wrap_socket(site.socket, server_side=True)
        url = f"https://localhost:{site.server_port}/metrics"
        MetricsPage(url, str(authority.certificate), TOKEN).read()
        with pytest.raises(MetricsError, match="CERTIFICATE_VERIFY_FAILED"):
            MetricsPage(url, token=TOKEN).read()
    assert site.shown == [f"Bearer {TOKEN}"]


def test_a_token_goes_nowhere_in_clear_text() -> None:
    """Neither to another machine nor to a name that only begins like this one; unless that is wanted."""
    for host in ("example.org:8002", "localhost.example.org", "127.0.0.1@example.org"):
        with pytest.raises(MetricsError, match="clear text"):
            MetricsPage(f"http://{host}/metrics", token=TOKEN)
    MetricsPage("http://example.org/metrics", token=TOKEN, allow_plaintext_token=True)
    MetricsPage("https://example.org/metrics", token=TOKEN)


@pytest.mark.parametrize("token", ["", "two words", "two\nlines", "s\xfcsse"])
def test_what_is_no_token_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(MetricsError, match="a token is") as caught:
        MetricsPage("https://example.org/metrics", token=token)
    assert not token or token not in str(caught.value)


def test_the_token_is_not_shown() -> None:
    assert TOKEN not in repr(MetricsPage("https://example.org/metrics", token=TOKEN))
