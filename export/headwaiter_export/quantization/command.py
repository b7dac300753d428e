"""The options of `headwaiter-export` that ask for an int8 variant."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource
from headwaiter_proto.v1 import bundle_pb2

from headwaiter_export.quantization.bounds import Bounds, Wishes

_DEFAULT: Final = Bounds()
_OPTIONS: Final = (
    click.option(
        "--int8",
        is_flag=True,
        help="Encoders and models that generate: write an int8 variant as well. Large ones are about twice as fast;"
        " answers differ a little from fp32, but never with the batch they are in.",
    ),
    click.option(
        "--int8-texts",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Texts like those you will serve, one a line: one half to choose on, one to certify on."
        " Default: of models that generate those of --words, or sample_texts.txt; else documentation of Python's"
        " standard library.",
    ),
    click.option(
        "--int8-weight-bits",
        type=click.Choice(["8", "7"]),
        default="8",
        show_default=True,
        help="7 is faster and less exact on x86 processors without VNNI, for which it is meant.",
    ),
    click.option(
        "--int8-mean-cosine",
        type=click.FloatRange(-1, 1),
        default=_DEFAULT.mean_cosine,
        show_default=True,
        help="Least mean cosine to fp32's answers, on each set of texts. Below any of these bounds nothing is written.",
    ),
    click.option(
        "--int8-worst-cosine",
        type=click.FloatRange(-1, 1),
        default=_DEFAULT.worst_cosine,
        show_default=True,
        help="Least cosine of any text.",
    ),
    click.option(
        "--int8-agreement",
        type=click.FloatRange(0, 1),
        default=_DEFAULT.agreement,
        show_default=True,
        help="Least share of texts whose nearest neighbour, label or rank stays.",
    ),
    click.option(
        "--int8-token-agreement",
        type=click.FloatRange(0, 1),
        default=_DEFAULT.token_agreement,
        show_default=True,
        help="The same for models that generate: least share of tokens that stay the likeliest.",
    ),
    click.option(
        "--int8-batch-difference",
        type=click.FloatRange(min=0),
        default=_DEFAULT.batch_difference,
        show_default=True,
        help="Largest difference between a text's answer alone and in a batch.",
    ),
    click.option(
        "--int8-speedup",
        type=click.FloatRange(min=0),
        help="Least speed relative to fp32, measured on this machine. Default: none; busy machines misjudge it.",
    ),
)


def int8_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options, and what they say as its argument `int8`: `Wishes`, or None."""

    @functools.wraps(command)
    def wrapped(
        *,
        int8: bool,
        int8_texts: Path | None,
        int8_weight_bits: str,
        int8_mean_cosine: float,
        int8_worst_cosine: float,
        int8_agreement: float,
        int8_batch_difference: float,
        int8_speedup: float | None,
        int8_token_agreement: float,
        **others: Any,  # noqa: ANN401 (the command's own)
    ) -> Any:  # noqa: ANN401 (whatever the command gives)
        if not int8:
            _refuse_details()
        bounds = Bounds(
            int8_mean_cosine,
            int8_worst_cosine,
            int8_agreement,
            int8_batch_difference,
            int8_speedup,
            int8_token_agreement,
        )
        return command(int8=Wishes(bounds, int(int8_weight_bits), int8_texts) if int8 else None, **others)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def _refuse_details() -> None:
    """Refuse what says how an int8 variant should be where none is asked for.

    Raises:
        click.UsageError: Naming the option.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name)) == ParameterSource.COMMANDLINE
        if given and str(parameter.name).startswith("int8_"):
            raise click.UsageError(f"{parameter.opts[0]} has no effect without --int8")


def int8_report(manifest: bundle_pb2.Manifest) -> dict[str, Any]:
    """What a command tells of a bundle's int8 variant; empty without one."""
    for variant in manifest.variants:
        if variant.HasField("quantization"):
            certificate = variant.quantization
            points = certificate.points
            return {
                f"{variant.name}_mean_cosine": min(point.mean_cosine for point in points),
                f"{variant.name}_worst_cosine": min(point.worst_cosine for point in points),
                f"{variant.name}_agreement": min(point.agreement for point in points),
                f"{variant.name}_batch_difference": max(point.max_batch_diff for point in points),
                f"{variant.name}_speedup": certificate.speedup,
                f"{variant.name}_fp32_weights": list(certificate.fp32_weights),
            }
    return {}
