"""Where the server's /metrics are, and how one gets in: the only part of the tester that speaks HTTP."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Final
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from headwaiter.targets import is_local

_PATIENCE_SECONDS: Final = 5.0
_LARGEST_BYTES: Final = 16 << 20
# Headwaiter answers all who ask within a quarter of a second with the same page.
_AGE_HEADER: Final = "Headwaiter-Age-Seconds"


class MetricsError(ValueError):
    """The server's metrics cannot be had; the message says why."""


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """A /metrics page, in Prometheus' text format.

    Attributes:
        url: Its address, http or https.
        ca_file: PEM file of the authorities to trust; None takes those of this machine.
        token: What it asks for, if it does; sent by https or to this machine.
        allow_plaintext_token: Send it by http to other machines too.

    Raises:
        MetricsError: It is no such address, or the token would be given away.
    """

    url: str
    ca_file: str | None = None
    token: str | None = field(default=None, repr=False)
    allow_plaintext_token: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise MetricsError(f"{self.url} is no http address")
        if self.token is None:
            return
        if not (self.token and self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise MetricsError("a token is a non-empty run of printable ASCII characters")
        if not (self.url.startswith("https://") or self._local or self.allow_plaintext_token):
            raise MetricsError(f"the token would travel to {self.url} in clear text: take https")

    def read(self) -> tuple[bytes, float]:
        """The page, and how many seconds ago it was made.

        Raises:
            MetricsError: Nobody answers there, or not with metrics.
        """
        request = Request(self.url, headers={"Accept": "text/plain; version=0.0.4"})  # noqa: S310 - checked above
        if self.token is not None:
            # Not for where a redirection leads.
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        try:
            with self._opener().open(request, timeout=_PATIENCE_SECONDS) as response:
                page: bytes = response.read(_LARGEST_BYTES + 1)
                age_seconds = float(response.headers.get(_AGE_HEADER, "0"))
        except (OSError, HTTPException, ValueError) as error:
            raise MetricsError(f"{self.url}: {getattr(error, 'reason', error)}") from error
        if len(page) > _LARGEST_BYTES:
            raise MetricsError(f"{self.url}: more than {_LARGEST_BYTES >> 20} MiB")
        return page, age_seconds

    @property
    def _local(self) -> bool:
        return is_local(urlsplit(self.url).hostname or "")

    def _opener(self) -> OpenerDirector:
        # http_proxy in the environment must not carry a token for this machine elsewhere.
        handlers = [ProxyHandler({})] if self._local else []
        if self.url.startswith("https://"):
            context = ssl.create_default_context(cafile=self.ca_file)
            return build_opener(*handlers, HTTPSHandler(context=context))
        return build_opener(*handlers)
