"""The `headwaiter` command."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Final, NoReturn

import click

from headwaiter.cli_embed import embed
from headwaiter.cli_encoders import classify, rerank, tag, tokenize
from headwaiter.cli_explain import explain
from headwaiter.cli_generate import generate
from headwaiter.cli_options import endpoint_options, json_line, json_option
from headwaiter.client import Client
from headwaiter.errors import HeadwaiterError, ServerUnreachableError
from headwaiter.results import HealthStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headwaiter.cli_options import Endpoint
    from headwaiter.results import ModelInfo

_FAILED: Final = 1
# 128 + the number of SIGINT: what a shell reports for a process that Ctrl-C ended.
_INTERRUPTED: Final = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headwaiter")
def cli() -> None:
    """Calls a Headwaiter server."""


@cli.command()
@json_option
@endpoint_options
def models(endpoint: Endpoint, *, as_json: bool) -> None:
    """Lists the models that the server holds."""
    with endpoint.open(Client) as client:
        infos = client.models()
    if as_json:
        for info in infos:
            click.echo(json_line(dataclasses.asdict(info)))
    else:
        _print_models(infos)


@cli.command()
@click.argument("model", default="")
@json_option
@endpoint_options
def health(model: str, endpoint: Endpoint, *, as_json: bool) -> None:
    """Says how MODEL is, or the server as a whole; exits with 0 only if it is SERVING."""
    with endpoint.open(Client) as client:
        status = client.health(model)
    click.echo(json_line({"model": model, "status": status}) if as_json else status)
    if status is not HealthStatus.SERVING:
        raise click.exceptions.Exit(_FAILED)


for _command in (generate, embed, classify, tag, rerank, tokenize, explain):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and ends the process; a failed call is one line on the standard error."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = cli.main(arguments, prog_name="headwaiter", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return _INTERRUPTED
    except ServerUnreachableError as error:
        return _fail(_hint(error))
    except (HeadwaiterError, OSError) as error:
        return _fail(f"headwaiter: {error}")
    except UnicodeEncodeError as error:
        return _fail(f"headwaiter: {error.object[error.start]!a} cannot be written in {error.encoding}")
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    click.echo(" ".join(message.split()), err=True)
    return _FAILED


def _hint(error: ServerUnreachableError) -> str:
    # Only where nothing listens is starting a server what helps.
    if "Connection refused" in error.reason or "No such file or directory" in error.reason:
        return f"headwaiter: no server answers at {error.target}: start one with `headwaiter-server --models DIR`"
    return f"headwaiter: {error}"


def _print_models(infos: Sequence[ModelInfo]) -> None:
    rows = [("NAME", "VERSION", "TASK", "VARIANT", "ARCHITECTURE", "MAX SOURCE", "MAX NEW TOKENS")]
    rows += [
        (
            info.name,
            str(info.version),
            info.task,
            info.variant,
            info.architecture,
            str(info.limits.max_source_tokens),
            str(info.limits.max_new_tokens),
        )
        for info in infos
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
