"""The command `headwaiter explain`: what happened to one text."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from headwaiter.attention_plot import SUFFIXES, write_plot
from headwaiter.cli_options import endpoint_options, json_line, json_option, model_options, truncate_option
from headwaiter.client import Client
from headwaiter.errors import InvalidRequestError, NotSupportedError
from headwaiter.explanation import Explanation, counted, explanation_lines, explanation_value, printable
from headwaiter.heat_map import ASCII_SHADES, SHADES, HeatMap, heat_map_lines
from headwaiter.results import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headwaiter.cli_options import Endpoint
    from headwaiter.results import Attention, ModelInfo

# What a table is made for where it goes to no terminal.
_WIDTH: Final = (80, 24)
# Of a generated text, how many characters are shown.
_MOST_CHARACTERS: Final = 200


@click.command()
@click.argument("text")
@click.option("--query", help="What the text is to answer, for models that rerank.")
@click.option("--second-text", help="The second text of a pair, for models that classify pairs.")
@click.option("--prompt", metavar="NAME", help='Prompt of a model that embeds; "" for none.')
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most tokens to generate; by default all that fit.",
)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Call so many times, one after the other, and show medians.",
)
@click.option("--attention", is_flag=True, help="Also show what tokens attended to, of a model with an encoder.")
@click.option("--layer", type=click.IntRange(min=0), metavar="N", help="Only in this layer, from 0; else in the mean.")
@click.option("--head", type=click.IntRange(min=0), metavar="N", help="Only of this head, from 0; else in the mean.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Also draw it, into a .svg or .html file.",
)
@model_options
@truncate_option
@json_option
@endpoint_options
def explain(
    text: str,
    repeat: int,
    endpoint: Endpoint,
    *,
    as_json: bool,
    model: str,
    version: int,
    attention: bool,
    layer: int | None,
    head: int | None,
    plot: Path | None,
    **arguments: Any,  # noqa: ANN401 - what tasks take
) -> None:
    """Shows what happens to TEXT: its tokens, where the time of a call goes, and what shared its run.

    Network and gRPC is what the client measured without what the server says it took. The text is sent to the model
    whatever its task is; a model that reranks needs --query. One more call comes first, which is not counted. With
    --attention there is a row for each generated token, and a column for each token of TEXT.
    """
    if not attention and (layer, head, plot) != (None, None, None):
        raise click.UsageError("--layer, --head and --plot go with --attention")
    if plot is not None and plot.suffix not in SUFFIXES:
        raise click.UsageError(f"--plot takes a file that ends in {' or '.join(SUFFIXES)}, not {str(plot)!r}")
    with endpoint.open(Client) as client:
        info = client.model(model, version=version)
        call = _call(client, info, text, arguments)
        weights = _attention(client, info, text, arguments["max_new_tokens"]) if attention else None
        heat_map = None if weights is None else _heat_map(weights, layer, head)
        explanation = _explain(client, info, text, call, repeat, arguments)
    of = _attended(layer, head)
    if heat_map is not None and plot is not None:
        write_plot(heat_map, f"{info.name} version {info.version}: {text!r}, attention {of}", plot)
    if as_json:
        value = explanation_value(explanation)
        if weights is not None and heat_map is not None:
            value["attention"] = _attention_value(weights, heat_map, layer, head)
        click.echo(json_line(value))
    else:
        lines = explanation_lines(explanation)
        if heat_map is not None:
            lines += ["", f"attention {of}", *_attention_lines(heat_map)]
        click.echo("\n".join(lines))


def _call(client: Client, info: ModelInfo, text: str, arguments: dict[str, Any]) -> Callable[[], Any]:
    """What calls the model's task with the text."""
    given = {name for name in ("query", "second_text", "prompt", "max_new_tokens") if arguments[name] is not None}
    suits = {
        Task.RERANK: "query",
        Task.CLASSIFY: "second_text",
        Task.EMBED: "prompt",
        Task.GENERATE: "max_new_tokens",
    }
    if wrong := given - {suits.get(info.task)}:
        option = "--" + min(wrong).replace("_", "-")
        raise click.UsageError(f"{option} means nothing to {info.name!r}, whose task is to {info.task}")
    who: dict[str, Any] = {"model": info.name, "version": info.version}
    cut: dict[str, Any] = {**who, "truncate": arguments["truncate"]}
    match info.task:
        case Task.GENERATE:
            if arguments["truncate"]:
                raise click.UsageError(f"--truncate means nothing to {info.name!r}, whose task is to generate")
            return lambda: client.generate(text, max_new_tokens=arguments["max_new_tokens"] or 0, **who)
        case Task.EMBED:
            return lambda: client.embed(text, prompt=arguments["prompt"], **cut)
        case Task.CLASSIFY:
            second_texts = () if arguments["second_text"] is None else arguments["second_text"]
            return lambda: client.classify(text, second_texts, **cut)
        case Task.TAG:
            return lambda: client.tag(text, **cut)
        case Task.RERANK:
            if arguments["query"] is None:
                raise click.UsageError(f"{info.name!r} is a model to rerank: say with --query what TEXT is to answer")
            return lambda: client.rerank(arguments["query"], text, **cut)
        case _:
            raise click.UsageError(f"{info.name!r} is a model to {info.task}, which takes no text")


def _explain(
    client: Client, info: ModelInfo, text: str, call: Callable[[], Any], repeat: int, arguments: dict[str, Any]
) -> Explanation:
    # The first call is not counted: it loads what the client decodes answers with.
    call()
    seconds, timings = [], []
    for _ in range(repeat):
        started = time.perf_counter()
        reply = call()
        seconds.append(time.perf_counter() - started)
        timings.append(reply.timings)
    read = _prompt(info, arguments["prompt"]) + text
    try:
        tokens = client.tokenize(read, model=info.name, version=info.version).tokenizations[0].tokens
    except InvalidRequestError:
        tokens = None  # it was cut for the model, and is longer than can be listed
    generated = reply.generations[0] if info.task is Task.GENERATE else None
    return Explanation(
        text=text,
        model=info,
        tokens=tokens,
        read_tokens=reply.reading.tokens[0] if generated is None else generated.source_tokens,
        seconds=tuple(seconds),
        timings=tuple(timings),
        answer=_answer(info.task, text, reply),
        token_seconds=() if generated is None else generated.token_seconds,
    )


def _prompt(info: ModelInfo, name: str | None) -> str:
    if info.embedding is None:
        return ""
    return info.embedding.prompts.get(info.embedding.default_prompt if name is None else name, "")


def _answer(task: Task, text: str, reply: Any) -> str:  # noqa: ANN401 - a reply of any task
    if task is Task.GENERATE:
        generation = reply.generations[0]
        more = len(generation.text) - _MOST_CHARACTERS
        rest = f" ... and {counted(more, 'character')} more" if more > 0 else ""
        return f"{generation.text[:_MOST_CHARACTERS]!r}{rest}, {counted(len(generation.token_ids), 'token')}"
    if task is Task.EMBED:
        return f"a vector of {reply.dimension} numbers"
    if task is Task.CLASSIFY:
        score, label = max(zip(reply.classifications[0].scores, reply.labels, strict=True))
        return f"{label} ({score:.4f})"
    if task is Task.TAG:
        spans = [f"{text[span.start : span.end]}={span.label}" for span in reply.taggings[0].spans]
        return ", ".join(spans) or "no spans"
    return f"score {reply.ranking[0].score:.4f}"


def _attention(client: Client, info: ModelInfo, text: str, max_new_tokens: int | None) -> Attention:
    """What the tokens that are generated for the text attended to."""
    if info.task is not Task.GENERATE:
        raise click.UsageError(f"--attention means nothing to {info.name!r}, whose task is to {info.task}")
    reply = client.generate(
        text, model=info.name, version=info.version, max_new_tokens=max_new_tokens or 0, attention=True
    )
    if (weights := reply.generations[0].attention) is None:
        raise NotSupportedError(f"the server tells nothing of the attention of {info.name!r}")
    return weights


def _heat_map(weights: Attention, layer: int | None, head: int | None) -> HeatMap:
    try:
        return HeatMap(weights.tokens, weights.source_tokens, weights.alignment(layer=layer, head=head))
    except IndexError as error:
        raise click.UsageError(str(error)) from error


def _attended(layer: int | None, head: int | None) -> str:
    """Which attention: `in the mean of all layers, of head 3`."""
    layers = "in the mean of all layers" if layer is None else f"in layer {layer}"
    heads = "of all heads" if head is None else f"of head {head}"
    return f"{layers}, {heads}"


def _attention_lines(heat_map: HeatMap) -> Iterator[str]:
    if not heat_map.rows:
        yield "nothing was generated"
        return
    width = shutil.get_terminal_size(_WIDTH).columns
    yield from heat_map_lines(heat_map, width=width, shades=SHADES if printable(SHADES) else ASCII_SHADES)


def _attention_value(weights: Attention, heat_map: HeatMap, layer: int | None, head: int | None) -> dict[str, object]:
    return {
        "layers": weights.layers,
        "heads": weights.heads,
        "layer": layer,
        "head": head,
        "source_tokens": weights.source_tokens,
        "tokens": weights.tokens,
        "weights": heat_map.shares,
    }
