"""The folder an export leaves behind: whole, synced to disk and under its own name, or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from google.protobuf import json_format
from headwaiter_proto.v1 import bundle_pb2

from headwaiter_export.errors import OutputExistsError, OutputNameError
from headwaiter_export.spec import GraphSpec

FORMAT_VERSION: Final = 1
MANIFEST_FILE: Final = "manifest.json"
TOKENIZER_FILE: Final = "tokenizer.json"
GOLDEN_FILE: Final = "golden.npz"

_TOOLS: Final = ("torch", "onnx", "onnxscript", "onnxruntime", "headwaiter")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_VERSION = re.compile(r"[1-9][0-9]*")


def check_target(target: Path, *, force: bool) -> None:
    """Refuse a target before any work is done.

    Raises:
        OutputNameError: It does not end in NAME/VERSION.
        OutputExistsError: It exists and may not be replaced.
    """
    name, version = target.parent.name, target.name
    if not _VERSION.fullmatch(version):
        raise OutputNameError(f"{target}: the last part is the version and must be a positive integer, not {version!r}")
    if not _NAME.fullmatch(name):
        raise OutputNameError(
            f"{target}: the part before the version is the model's name: letters, digits, '_', '.' and '-',"
            f" beginning with a letter or digit, not {name!r}"
        )
    if os.path.lexists(target) and not force:
        raise OutputExistsError(f"{target} exists; --force replaces it")


@contextlib.contextmanager
def staged(target: Path, *, force: bool) -> Iterator[Path]:
    """Give a folder to fill beside the target; on success it becomes the target, on failure it goes.

    Replacing takes two renames, because there is no portable exchange of folders: a reader that opens the
    target between them finds nothing there, never a mixture.

    Raises:
        OutputExistsError: The target appeared meanwhile, and `force` is not set.
    """
    made = _make_folders(target.parent)
    suffix = secrets.token_hex(4)
    # The leading dot hides it from a server that looks for versions.
    staging = target.with_name(f".{target.name}.{suffix}.partial")
    try:
        staging.mkdir()
        yield staging
        for path in [*staging.iterdir(), staging]:
            _sync(path)
        _publish(staging, target, target.with_name(f".{target.name}.{suffix}.replaced"), force=force)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # someone else put something there
                folder.rmdir()
        raise


def file_entry(path: Path) -> bundle_pb2.File:
    """Name, size and digest of a written file."""
    content = path.read_bytes()
    return bundle_pb2.File(name=path.name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def graph_entry(spec: GraphSpec, folder: Path) -> bundle_pb2.Graph:
    """A written graph with its signature."""
    return bundle_pb2.Graph(
        role=spec.role,
        file=file_entry(folder / spec.file_name),
        inputs=[tensor.proto() for tensor in spec.inputs],
        outputs=[tensor.proto() for tensor in spec.outputs],
    )


def tool_versions(*more: str) -> dict[str, str]:
    """Versions of the tools that every export uses, and of `more`."""
    return {tool: metadata.version(tool) for tool in (*_TOOLS, *more)}


def manifest_json(manifest: bundle_pb2.Manifest) -> str:
    """The manifest as text: fields as the schema names them, keys sorted, always the same for the same content."""
    fields = json_format.MessageToDict(
        # A pad_id of 0 is a fact, not an absence.
        manifest,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )
    return json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> bundle_pb2.Manifest:
    """Read the manifest of a bundle.

    Raises:
        google.protobuf.json_format.ParseError: It is not JSON, or holds a field that the schema does not know.
    """
    text = (folder / MANIFEST_FILE).read_text(encoding="utf-8")
    return json_format.Parse(text, bundle_pb2.Manifest())


def _publish(staging: Path, target: Path, replaced: Path, *, force: bool) -> None:
    if os.path.lexists(target):
        if not force:
            raise OutputExistsError(f"{target} appeared while the export ran; --force replaces it")
        target.rename(replaced)
        try:
            staging.rename(target)
        except BaseException:
            replaced.rename(target)
            raise
        if replaced.is_dir() and not replaced.is_symlink():
            shutil.rmtree(replaced)
        else:
            replaced.unlink()
    else:
        staging.rename(target)
    _sync(target.parent)


def _make_folders(folder: Path) -> list[Path]:
    """Create a folder and its parents; those that were not there, innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
