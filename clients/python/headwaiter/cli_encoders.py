"""The commands `headwaiter classify`, `tag`, `rerank` and `tokenize`."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headwaiter import bulk
from headwaiter.async_client import AsyncClient
from headwaiter.cli_options import (
    batches_of,
    endpoint_options,
    json_line,
    json_option,
    model_options,
    raw_scores_option,
    truncate_option,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from headwaiter.cli_options import Endpoint
    from headwaiter.results import ClassifyReply, TagReply, TokenizeReply

ReplyT = TypeVar("ReplyT")

_texts_argument = click.argument("texts", metavar="[TEXT]...", nargs=-1)


@click.command()
@_texts_argument
@model_options
@truncate_option
@raw_scores_option
@json_option
@endpoint_options
def classify(
    texts: tuple[str, ...],
    endpoint: Endpoint,
    *,
    as_json: bool,
    **arguments: Any,  # noqa: ANN401 - `Client.classify`'s
) -> None:
    """Prints the best label of each TEXT and its score; with --json, the scores of all labels.

    Without a TEXT, or with "-", lines of the standard input are read; blank ones are skipped.
    """

    def lines(answered: bulk.Answered[ClassifyReply]) -> Iterator[str]:
        reply = answered.reply
        for text, each in zip(answered.texts, reply.classifications, strict=True):
            scores = dict(zip(reply.labels, each.scores, strict=True))
            if as_json:
                yield json_line({"input": text, "scores": scores, **_who(reply)})
            else:
                best = max(scores, key=scores.__getitem__)
                yield f"{best}\t{scores[best]:.4f}"

    _run(endpoint, texts, lambda client, batch: client.classify(batch, **arguments), lines)


@click.command()
@_texts_argument
@model_options
@truncate_option
@raw_scores_option
@click.option("--tokens", is_flag=True, help="Print every token by itself instead of whole entities.")
@json_option
@endpoint_options
def tag(
    texts: tuple[str, ...],
    endpoint: Endpoint,
    *,
    as_json: bool,
    tokens: bool,
    **arguments: Any,  # noqa: ANN401 - `Client.tag`'s
) -> None:
    """Prints the labelled stretches of each TEXT, one line a text: `Ada Lovelace=PER`, parted by tabs.

    Without a TEXT, or with "-", lines of the standard input are read; blank ones are skipped.
    """

    def lines(answered: bulk.Answered[TagReply]) -> Iterator[str]:
        for text, each in zip(answered.texts, answered.reply.taggings, strict=True):
            if as_json:
                spans = [{"text": text[span.start : span.end], **dataclasses.asdict(span)} for span in each.spans]
                yield json_line({"input": text, "spans": spans, **_who(answered.reply)})
            else:
                yield "\t".join(f"{text[span.start : span.end]}={span.label}" for span in each.spans)

    _run(endpoint, texts, lambda client, batch: client.tag(batch, aggregate=not tokens, **arguments), lines)


@click.command()
@_texts_argument
@model_options
@json_option
@endpoint_options
def tokenize(
    texts: tuple[str, ...],
    endpoint: Endpoint,
    *,
    as_json: bool,
    **arguments: Any,  # noqa: ANN401 - `Client.tokenize`'s
) -> None:
    """Prints the tokens of each TEXT, as the model's vocabulary writes them.

    Without a TEXT, or with "-", lines of the standard input are read; blank ones are skipped.
    """

    def lines(answered: bulk.Answered[TokenizeReply]) -> Iterator[str]:
        reply = answered.reply
        for text, each in zip(answered.texts, reply.tokenizations, strict=True):
            if as_json:
                who = {"model": reply.model, "version": reply.version}
                yield json_line({"input": text, **dataclasses.asdict(each), **who})
            else:
                yield " ".join(each.tokens)

    _run(endpoint, texts, lambda client, batch: client.tokenize(batch, **arguments), lines)


@click.command()
@click.argument("query")
@_texts_argument
@model_options
@truncate_option
@raw_scores_option
@click.option("--top", "top_n", type=click.IntRange(min=0), default=0, metavar="N", help="Print the best N only.")
@json_option
@endpoint_options
def rerank(
    query: str,
    texts: tuple[str, ...],
    endpoint: Endpoint,
    *,
    as_json: bool,
    **arguments: Any,  # noqa: ANN401 - `Client.rerank`'s
) -> None:
    """Prints the TEXTs in the order in which they answer QUERY, with their scores.

    Without a TEXT, or with "-", lines of the standard input are read; blank ones are skipped. All go in one call.
    """

    async def run() -> None:
        batch = [text async for texts in batches_of(texts_given) for text in texts]
        if not batch:
            return
        decoded = [text.decoded() for text in batch]
        async with endpoint.open(AsyncClient) as client:
            with bulk.named_by_origin(batch):
                reply = await client.rerank(query, decoded, **arguments)
        for each in reply.ranking:
            if as_json:
                value = {"index": each.index, "text": decoded[each.index], "score": each.score}
                click.echo(json_line({**value, **_who(reply)}))
            else:
                click.echo(f"{each.score:.4f}\t{decoded[each.index]}")

    texts_given = texts
    asyncio.run(run())


def _run(
    endpoint: Endpoint,
    texts: tuple[str, ...],
    call: Callable[[AsyncClient, tuple[str, ...]], Coroutine[Any, Any, ReplyT]],
    lines: Callable[[bulk.Answered[ReplyT]], Iterator[str]],
) -> None:
    """Call for all texts, and print the lines of each answer in their order."""
    batches = batches_of(texts)

    async def run() -> None:
        async with (
            endpoint.open(AsyncClient) as client,
            aclosing(bulk.answers(lambda batch: call(client, batch), batches)) as answers,
        ):
            async for answered in answers:
                click.echo("\n".join(lines(answered)))

    asyncio.run(run())


def _who(reply: Any) -> dict[str, object]:  # noqa: ANN401 - any reply of a model
    return {"model": reply.model, "version": reply.version, "variant": reply.variant}
