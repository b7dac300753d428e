"""The `headwaiter` command."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NoReturn

import click

from headwaiter import bulk
from headwaiter.async_client import AsyncClient
from headwaiter.cli_embed import embed
from headwaiter.cli_encoders import classify, rerank, tag, tokenize
from headwaiter.cli_explain import explain
from headwaiter.cli_options import batches_of, endpoint_options, json_line, json_option, model_options
from headwaiter.client import Client
from headwaiter.errors import HeadwaiterError, ServerUnreachableError
from headwaiter.results import HealthStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headwaiter.bulk import Answered
    from headwaiter.cli_options import Endpoint
    from headwaiter.results import GenerateReply, ModelInfo

_FAILED: Final = 1
# 128 + the number of SIGINT: what a shell reports for a process that Ctrl-C ended.
_INTERRUPTED: Final = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headwaiter")
def cli() -> None:
    """Calls a Headwaiter server."""


@cli.command()
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@model_options
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Most tokens for each text; by default the model's limit.",
)
@json_option
@click.option("--timings", is_flag=True, help="Also say where the time of each call went.")
@endpoint_options
def generate(
    texts: tuple[str, ...],
    model: str,
    version: int,
    max_new_tokens: int,
    endpoint: Endpoint,
    *,
    as_json: bool,
    timings: bool,
) -> None:
    """Generates a text for each TEXT, or for each line of the standard input.

    Results are printed in the order of the texts, one a line. Lines are read when no TEXT is given, or "-";
    blank ones are skipped.
    """
    batches = batches_of(texts)

    async def run() -> None:
        async with endpoint.open(AsyncClient) as client:

            async def call(texts: tuple[str, ...], /) -> GenerateReply:
                return await client.generate(texts, model=model, version=version, max_new_tokens=max_new_tokens)

            async with aclosing(bulk.answers(call, batches)) as answers:
                async for answered in answers:
                    _print_answered(answered, as_json=as_json, timings=timings)

    asyncio.run(run())


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


for _command in (embed, classify, tag, rerank, tokenize, explain):
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
    except HeadwaiterError as error:
        return _fail(f"headwaiter: {error}")
    except OSError as error:
        return _fail(f"headwaiter: {error}")
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    click.echo(" ".join(message.split()), err=True)
    return _FAILED


def _hint(error: ServerUnreachableError) -> str:
    # Only where nothing listens is starting a server what helps.
    if "Connection refused" in error.reason or "No such file or directory" in error.reason:
        return f"headwaiter: no server answers at {error.target}: start one with `headwaiter-server --models DIR`"
    return f"headwaiter: {error}"


def _print_answered(answered: Answered[GenerateReply], *, as_json: bool, timings: bool) -> None:
    reply = answered.reply
    if as_json:
        common = {"model": reply.model, "version": reply.version, "variant": reply.variant}
        if timings:
            common["timings"] = dataclasses.asdict(reply.timings)
        lines = [
            json_line({"input": text, **dataclasses.asdict(generation), **common})
            for text, generation in zip(answered.texts, reply.generations, strict=True)
        ]
    else:
        lines = [generation.text for generation in reply.generations]
    # One write for all: a line at a time costs more than the calls when many are read.
    click.echo("\n".join(lines))
    if timings and not as_json:
        click.echo(_timings_line(reply), err=True)


def _timings_line(reply: GenerateReply) -> str:
    timings = reply.timings
    count = len(reply.generations)
    return (
        f"{count} text{'' if count == 1 else 's'} in {timings.total_seconds * 1e3:.2f} ms:"
        f" tokenize {timings.tokenize_seconds * 1e3:.2f}, queue {timings.queue_seconds * 1e3:.2f},"
        f" inference {timings.inference_seconds * 1e3:.2f}; batch {timings.batch_id}"
        f" of {timings.batch_size} rows, {timings.batch_tokens} tokens"
    )


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
