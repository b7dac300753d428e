"""One export from beginning to end."""

from __future__ import annotations

import os
from pathlib import Path

from headwaiter_proto.v1.bundle_pb2 import Manifest

from headwaiter_export.architectures import Options, recipe_for
from headwaiter_export.bundle import MANIFEST_FILE, check_target, manifest_json, read_manifest, staged
from headwaiter_export.progress import Progress, Silent


def export_checkpoint(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Options | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Export a checkpoint folder to a verified bundle.

    Args:
        source: The checkpoint folder.
        out: The bundle's folder, ending in NAME/VERSION.
        options: Task, tolerance and texts to compare on.
        force: Replace a bundle that is there.
        progress: Told about every stage.

    Returns:
        The manifest, as written.

    Raises:
        ExportError: The export failed; nothing is left at `out`, or what was there before.
    """
    # Absolute, so that "." and ".." have names; not resolved, so that a link stays the user's choice.
    source_folder, target = Path(source), Path(os.path.abspath(out))  # noqa: PTH100 (Path.absolute keeps "..")
    check_target(target, force=force)
    recipe = recipe_for(source_folder)
    with staged(target, force=force) as folder:
        manifest = recipe(source_folder, folder, options or Options(), progress or Silent())
        (folder / MANIFEST_FILE).write_text(manifest_json(manifest), encoding="utf-8")
    return read_manifest(target)
