"""The command `headwaiter-export`."""

from __future__ import annotations

import json
import math
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

try:
    from rich.console import Console

    from headwaiter_export.architectures import Options
    from headwaiter_export.errors import ExportError
    from headwaiter_export.progress import Lines
    from headwaiter_export.terminal import Bars
except ModuleNotFoundError as error:
    # The command comes with every install of the package, what it needs only with the extra.
    raise SystemExit(f"headwaiter-export: no module {error.name}; install headwaiter with its extra: export") from error

if TYPE_CHECKING:
    from headwaiter_proto.v1.bundle_pb2 import Manifest


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
    type=click.Choice(["auto", "generate"]),
    default="auto",
    show_default=True,
    help="What the model is for; auto asks the checkpoint.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0.0, min_open=True, max=1.0),
    callback=lambda _context, _parameter, value: _finite(value),
    default=1e-4,
    show_default=True,
    help="Largest absolute difference from PyTorch. Beyond it nothing is written.",
)
@click.option(
    "--words",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Texts that PyTorch and onnxruntime must decode to the same tokens, one a line; the first 500 that fit"
    " are taken. Default: sample_texts.txt of the checkpoint, else random tokens.",
)
@click.option("--force", is_flag=True, help="Replace a bundle that is there already.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.version_option(package_name="headwaiter", message="%(prog)s %(version)s")
def command(
    *, source: Path, out: Path, task: str, tolerance: float, words: Path | None, force: bool, as_json: bool
) -> None:
    """Export the checkpoint folder SOURCE to a bundle that headwaiter-server serves.

    Nothing is written unless onnxruntime computes what PyTorch computes.
    """
    # Here, so that --help does not wait for torch.
    from headwaiter_export.exporting import export_checkpoint  # noqa: PLC0415

    options = Options(task=task, tolerance=tolerance, words=words)
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
    identical = f"{report['texts_identical']} of {report['texts_compared']}"
    rows = {
        "bundle": str(out),
        "size": f"{report['size_bytes']:,} bytes",
        "max difference": f"{report['max_abs_diff']:.3g} (tolerance {tolerance:g})",
        "texts identical": identical,
    }
    for name, value in rows.items():
        click.echo(f"{name:<{max(map(len, rows))}}  {value}")


def main() -> None:
    """Run the command; exits 1 after a plain line on stderr if the export fails."""
    # As an exception, so that the half-made bundle is cleaned away; 143 is the shell's word for it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    command(prog_name="headwaiter-export")


def _report(manifest: Manifest, out: Path) -> dict[str, str | int | float]:
    parity = manifest.variants[0].parity
    return {
        "path": str(out),
        "architecture": manifest.architecture,
        "size_bytes": sum(path.stat().st_size for path in out.iterdir()),
        "tolerance": parity.tolerance,
        "max_abs_diff": max(point.max_abs_diff for point in parity.points),
        "shapes_compared": len(parity.points),
        "texts_compared": parity.texts_compared,
        "texts_identical": parity.texts_identical,
    }


if __name__ == "__main__":
    main()
