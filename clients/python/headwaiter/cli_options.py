"""The options that `headwaiter` commands share: where the server is and how to connect, the model, the texts."""

from __future__ import annotations

import functools
import json
import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headwaiter import bulk
from headwaiter.async_client import AsyncClient
from headwaiter.client import Client
from headwaiter.connection import DEFAULT_TARGET, DEFAULT_TIMEOUT_SECONDS, TLS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ClientT = TypeVar("ClientT", Client, AsyncClient)

_FILE = click.Path(exists=True, dir_okay=False)
# In the environment only: a command line is seen by everybody on the machine, and kept by shells.
_TOKEN_VARIABLE = "HEADWAITER_CLIENT_TOKEN"  # noqa: S105 - its name

target_option = click.option(
    "--target",
    envvar="HEADWAITER_CLIENT_TARGET",
    default=DEFAULT_TARGET,
    show_default=True,
    show_envvar=True,
    metavar="HOST:PORT",
    help="Where the server is; any gRPC target.",
)

security_options = (
    click.option(
        "--tls",
        envvar="HEADWAITER_CLIENT_TLS",
        is_flag=True,
        help="Speak TLS; the options for its files imply it. These can be given in the environment, too, as "
        "HEADWAITER_CLIENT_NAME.",
    ),
    click.option("--ca-file", envvar="HEADWAITER_CLIENT_CA_FILE", type=_FILE, help="Authorities to trust (PEM)."),
    click.option(
        "--cert-file",
        envvar="HEADWAITER_CLIENT_CERT_FILE",
        type=_FILE,
        help="Own certificate chain (PEM); needs --key-file.",
    ),
    click.option("--key-file", envvar="HEADWAITER_CLIENT_KEY_FILE", type=_FILE, help="Own private key (PEM)."),
    click.option(
        "--server-name",
        envvar="HEADWAITER_CLIENT_SERVER_NAME",
        metavar="NAME",
        help="Name that the server's certificate must hold.",
    ),
    click.option(
        "--token-file",
        envvar="HEADWAITER_CLIENT_TOKEN_FILE",
        type=_FILE,
        help=f"Bearer token; needs TLS, except to this machine. Without it what {_TOKEN_VARIABLE} holds.",
    ),
    click.option(
        "--allow-plaintext-token",
        is_flag=True,
        help="Send the token without TLS to other machines too: all on the way can read it.",
    ),
)


def read_token(path: str) -> str:
    """The token that a file holds.

    Raises:
        OSError: It cannot be read.
    """
    return Path(path).read_text(encoding="utf-8", errors="replace").strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where the server is and how to prove who is who, as these options say."""

    target: str
    tls: bool
    ca_file: str | None
    cert_file: str | None
    key_file: str | None
    server_name: str | None
    token_file: str | None
    allow_plaintext_token: bool

    def tls_settings(self) -> TLS | None:
        """How to speak TLS; None without.

        Raises:
            ValueError: The options do not go together.
            OSError: A file cannot be read.
        """
        files = (self.ca_file, self.cert_file, self.key_file, self.server_name)
        return TLS(*files) if self.tls or any(files) else None

    def token(self) -> str | None:
        """The bearer token, if there is one: of the file or, without one, of the environment.

        Raises:
            OSError: Its file cannot be read.
        """
        return read_token(self.token_file) if self.token_file else os.environ.get(_TOKEN_VARIABLE) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(Access):
    """Where the server is and how to call it, as the options say."""

    timeout_seconds: float

    def open(self, client: type[ClientT]) -> ClientT:
        """A client of either kind.

        Raises:
            click.UsageError: The options do not go together, or a file cannot be read.
        """
        try:
            return client(
                self.target,
                timeout_seconds=self.timeout_seconds,
                tls=self.tls_settings(),
                token=self.token(),
                allow_plaintext_token=self.allow_plaintext_token,
            )
        except (ValueError, OSError) as error:
            raise click.UsageError(str(error)) from error


_ENDPOINT_OPTIONS = (
    target_option,
    click.option(
        "--timeout",
        "timeout_seconds",
        type=click.FloatRange(min=0, min_open=True),
        default=DEFAULT_TIMEOUT_SECONDS,
        show_default=True,
        metavar="SECONDS",
        help="Deadline of each call; over a stream, the longest wait for the next answer.",
    ),
    *security_options,
)


def endpoint_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the shared options to a command, which gets them as one `endpoint`."""

    @functools.wraps(command)
    def with_endpoint(**options: Any) -> None:  # noqa: ANN401 - the command's own options are among them
        shared = {field.name: options.pop(field.name) for field in fields(Endpoint)}
        command(endpoint=Endpoint(**shared), **options)

    decorated: Callable[..., None] = with_endpoint
    for option in reversed(_ENDPOINT_OPTIONS):
        decorated = option(decorated)
    return decorated


_MODEL_OPTIONS = (
    click.option("--model", default="", metavar="NAME", help="Model; may be left out when there is only one."),
    click.option(
        "--version",
        type=click.IntRange(min=0),
        default=0,
        metavar="N",
        help="Version of the model; by default the one that serves.",
    ),
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
truncate_option = click.option("--truncate", is_flag=True, help="Cut texts over the model's limit.")
raw_scores_option = click.option("--raw-scores", is_flag=True, help="Give raw scores instead of probabilities.")


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that choose a model."""
    for option in reversed(_MODEL_OPTIONS):
        command = option(command)
    return command


def batches_of(texts: tuple[str, ...]) -> AsyncIterator[list[bulk.Text]]:
    """What a command's TEXT arguments stand for: themselves, or the lines of the standard input.

    Raises:
        click.UsageError: There are none, and nothing to read from.
    """
    if texts not in {(), ("-",)}:
        return bulk.from_arguments(texts)
    if sys.stdin is None:
        raise click.UsageError("there is no TEXT, and the standard input is closed")
    return bulk.from_lines(sys.stdin.buffer)


def json_line(value: dict[str, object]) -> str:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=False)
