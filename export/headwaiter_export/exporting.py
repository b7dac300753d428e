"""One export from beginning to end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from headwaiter_proto.v1.bundle_pb2 import Manifest

from headwaiter_export.architectures import Options, recipe_for
from headwaiter_export.bundle import MANIFEST_FILE, check_target, manifest_json, read_manifest, staged
from headwaiter_export.errors import NothingToQuantizeError
from headwaiter_export.progress import Progress, Silent


def export_checkpoint(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Options | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Export a checkpoint to a verified bundle.

    Args:
        source: The checkpoint folder, or an ONNX file.
        out: The bundle's folder, ending in NAME/VERSION.
        options: Task, tolerance and texts to compare on.
        force: Replace a bundle that is there.
        progress: Told about every stage.

    Returns:
        The manifest, as written.

    Raises:
        ExportError: The export failed; nothing is left at `out`, or what was there before.
    """
    check_target(_absolute(out), force=force)
    chosen = options or Options()
    recipe = recipe_for(Path(source), chosen.task)

    def fill(folder: Path) -> Manifest:
        manifest = recipe(Path(source), folder, chosen, progress or Silent())
        if chosen.int8 is not None and not any(variant.HasField("quantization") for variant in manifest.variants):
            raise NothingToQuantizeError(f"{manifest.architecture} models have no int8 variant")
        return manifest

    return write_bundle(fill, out, force=force)


def write_bundle(fill: Callable[[Path], Manifest], out: str | os.PathLike[str], *, force: bool) -> Manifest:
    """Let `fill` fill a folder, add the manifest it returns, and put the folder at `out`.

    Returns:
        The manifest, as written.

    Raises:
        ExportError: Whatever `fill` raises, and OutputError; nothing is left at `out`, or what was there before.
    """
    target = _absolute(out)
    check_target(target, force=force)
    with staged(target, force=force) as folder:
        (folder / MANIFEST_FILE).write_text(manifest_json(fill(folder)), encoding="utf-8")
    return read_manifest(target)


def _absolute(out: str | os.PathLike[str]) -> Path:
    # So that "." and ".." have names; not resolved, so that a link stays the user's choice.
    return Path(os.path.abspath(out))  # noqa: PTH100 (Path.absolute keeps "..")
