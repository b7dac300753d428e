"""The command `headwaiter-export`."""

from __future__ import annotations

import json
import math
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from headwaiter_proto.v1.bundle_pb2 import GraphKind, Task

try:
    from rich.console import Console

    from headwaiter_export.architectures import Options
    from headwaiter_export.errors import ExportError
    from headwaiter_export.progress import Lines
    from headwaiter_export.quantization.command import int8_options, int8_report
    from headwaiter_export.terminal import Bars
except ModuleNotFoundError as error:
    # The command comes with every install of the package, what it needs only with the extra.
    raise SystemExit(f"headwaiter-export: no module {error.name}; install headwaiter with its extra: export") from error

if TYPE_CHECKING:
    from headwaiter_proto.v1.bundle_pb2 import Manifest

    from headwaiter_export.quantization.bounds import Wishes


def _finite(value: float) -> float:
    # A NaN passes click's range, and every comparison with it.
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number")
    return value


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    metavar="MODELS/NAME/VERSION",
    type=click.Path(path_type=Path),
    help="Folder of the bundle. NAME is what clients ask for, VERSION a positive integer.",
)
@click.option(
    "--task",
    type=click.Choice(["auto", "embed", "classify", "tag", "rerank", "tensor", "generate"]),
    default="auto",
    show_default=True,
    help="What the model is for; auto asks the checkpoint.",
)
@click.option(
    "--graph",
    type=click.Choice(["auto", "packed", "padded"]),
    default="auto",
    show_default=True,
    help="How an encoder's graph takes several texts: packed, their tokens end to end, does no work on padding;"
    " padded, in rows filled up to the longest, is for models that cannot be packed. auto packs where the model"
    " allows it.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    help="Tokens of the longest text that the model takes; of a decoder-only one, with what is generated. Default: the"
    " smallest limit that the checkpoint's files state, which may be less than the model's positions.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0.0, min_open=True, max=1.0),
    callback=lambda _context, _parameter, value: None if value is None else _finite(value),
    help="Largest difference from PyTorch: absolute, and relative to the largest number where encoders and tensors"
    " exceed 1. Beyond it nothing is written. Default: 1e-4 for models that generate, 1e-5 for all others.",
)
@click.option(
    "--words",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Texts to compare PyTorch and onnxruntime on, one a line. A model that generates must decode those that fit to"
    " the same tokens: the first 500, of Hugging Face's models the first 200. Default: sample_texts.txt of the"
    " checkpoint, else random tokens for models that generate and texts of Python's own reference for encoders.",
)
@int8_options
@click.option("--force", is_flag=True, help="Replace a bundle that is there already.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.version_option(package_name="headwaiter", message="%(prog)s %(version)s")
def command(
    *,
    source: Path,
    out: Path,
    task: str,
    graph: str,
    max_tokens: int | None,
    tolerance: float | None,
    words: Path | None,
    int8: Wishes | None,
    force: bool,
    as_json: bool,
) -> None:
    """Export SOURCE to a bundle that headwaiter-server serves.

    SOURCE is a checkpoint folder of Headwaiter's own Transformer, of Hugging Face or of sentence-transformers, or an
    ONNX file.

    Nothing is written unless onnxruntime computes what PyTorch computes.
    """
    # Here, so that --help does not wait for torch.
    from headwaiter_export.exporting import export_checkpoint  # noqa: PLC0415

    options = Options(task=task, graph=graph, tolerance=tolerance, words=words, max_tokens=max_tokens, int8=int8)
    errors = Console(stderr=True)
    try:
        if errors.is_terminal:
            with Bars(errors) as bars:
                manifest = export_checkpoint(source, out, options, force=force, progress=bars)
        else:
            manifest = export_checkpoint(source, out, options, force=force, progress=Lines(sys.stderr))
    except (ExportError, OSError) as error:
        # An OSError is the disk's or the permissions' word, and plain enough.
        click.echo(f"headwaiter-export: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    report = _report(manifest, out)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    rows = {"bundle": str(out), "size": f"{report['size_bytes']:,} bytes"}
    if report["shapes_compared"]:
        rows["max difference"] = f"{report['max_abs_diff']:.3g} (tolerance {report['tolerance']:g})"
    if report["texts_compared"]:
        rows["texts identical"] = f"{report['texts_identical']} of {report['texts_compared']}"
    if "int8_mean_cosine" in report:
        rows["int8 cosine"] = f"mean {report['int8_mean_cosine']:.5f}, worst {report['int8_worst_cosine']:.5f}"
        rows["int8 agreement"] = f"{report['int8_agreement']:.1%}"
        rows["int8 batches"] = f"differ by {report['int8_batch_difference']:.3g} from a text alone"
        rows["int8 speed"] = f"{report['int8_speedup']:.2f} x fp32 on this machine"
    if manifest.remarks:
        rows["remarks"] = "\n".join(manifest.remarks)
    width = max(map(len, rows))
    for name, value in rows.items():
        click.echo(f"{name:<{width}}  " + value.replace("\n", f"\n{'':{width}}  "))


def main() -> None:
    """Run the command; exits 1 after a plain line on stderr if the export fails."""
    # As an exception, so that the half-made bundle is cleaned away; 143 is the shell's word for it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    command(prog_name="headwaiter-export")


def _report(manifest: Manifest, out: Path) -> dict[str, str | int | float | list[str]]:
    parity = manifest.variants[0].parity
    return {
        "path": str(out),
        "architecture": manifest.architecture,
        "task": Task.Name(manifest.task).removeprefix("TASK_").lower(),
        "graph": GraphKind.Name(manifest.graph_kind).removeprefix("GRAPH_KIND_").lower(),
        "max_source_tokens": manifest.limits.max_source_tokens,
        "labels": list(manifest.labels),
        "size_bytes": sum(path.stat().st_size for path in out.iterdir()),
        "tolerance": parity.tolerance,
        "max_abs_diff": max((point.max_abs_diff for point in parity.points), default=0.0),
        "shapes_compared": len(parity.points),
        "texts_compared": parity.texts_compared,
        "texts_identical": parity.texts_identical,
        "remarks": list(manifest.remarks),
        **int8_report(manifest),
    }


if __name__ == "__main__":
    main()
