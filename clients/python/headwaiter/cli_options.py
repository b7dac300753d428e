"""The options that every `headwaiter` command shares: where the server is and how to connect."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headwaiter.async_client import AsyncClient
from headwaiter.client import Client
from headwaiter.connection import DEFAULT_TARGET, DEFAULT_TIMEOUT_SECONDS, TLS

if TYPE_CHECKING:
    from collections.abc import Callable

ClientT = TypeVar("ClientT", Client, AsyncClient)

_FILE = click.Path(exists=True, dir_okay=False)

_OPTIONS = (
    click.option(
        "--target",
        envvar="HEADWAITER_CLIENT_TARGET",
        default=DEFAULT_TARGET,
        show_default=True,
        show_envvar=True,
        metavar="HOST:PORT",
        help="Where the server is; any gRPC target.",
    ),
    click.option(
        "--timeout",
        "timeout_seconds",
        type=click.FloatRange(min=0, min_open=True),
        default=DEFAULT_TIMEOUT_SECONDS,
        show_default=True,
        metavar="SECONDS",
        help="Deadline of each call.",
    ),
    click.option("--tls", is_flag=True, help="Speak TLS; the options for its files imply it."),
    click.option("--ca-file", type=_FILE, help="Authorities to trust (PEM)."),
    click.option("--cert-file", type=_FILE, help="Own certificate chain (PEM); needs --key-file."),
    click.option("--key-file", type=_FILE, help="Own private key (PEM)."),
    click.option("--server-name", metavar="NAME", help="Name that the server's certificate must hold."),
    click.option("--token-file", type=_FILE, help="Bearer token; needs TLS, except to this machine."),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server is and how to connect, as the options say."""

    target: str
    timeout_seconds: float
    tls: bool
    ca_file: str | None
    cert_file: str | None
    key_file: str | None
    server_name: str | None
    token_file: str | None

    def open(self, client: type[ClientT]) -> ClientT:
        """A client of either kind.

        Raises:
            click.UsageError: The options do not go together, or a file cannot be read.
        """
        files = (self.ca_file, self.cert_file, self.key_file, self.server_name)
        try:
            return client(
                self.target,
                timeout_seconds=self.timeout_seconds,
                tls=TLS(*files) if self.tls or any(files) else None,
                token=Path(self.token_file).read_text(encoding="utf-8").strip() if self.token_file else None,
            )
        except (ValueError, OSError) as error:
            raise click.UsageError(str(error)) from error


def endpoint_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the shared options to a command, which gets them as one `endpoint`."""

    @functools.wraps(command)
    def with_endpoint(**options: Any) -> None:  # noqa: ANN401 - the command's own options are among them
        shared = {name: options.pop(name) for name in Endpoint.__slots__}
        command(endpoint=Endpoint(**shared), **options)

    decorated: Callable[..., None] = with_endpoint
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated
