"""A bundle's files, read once, checked against their digests, and never trusted before."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf import json_format
from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.errors import BundleError
from headwaiter_server.model.contract import Array

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
GOLDEN_FILE = "golden.npz"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, or rather one variant of it.

    Attributes:
        manifest: Its manifest.
        variant: The chosen variant.
        tokenizer_json: The text of tokenizer.json.
        graphs: The bytes of each graph of the variant, by role.
        golden: Inputs and outputs that the exporting machine computed.
    """

    manifest: bundle_pb2.Manifest
    variant: bundle_pb2.Variant
    tokenizer_json: str
    graphs: dict[int, bytes]
    golden: dict[str, Array]


Check = Callable[[bundle_pb2.Manifest, bundle_pb2.Variant], None]


def read_bundle(folder: Path, variant_name: str, check: Check = lambda _manifest, _variant: None) -> Bundle:
    """Read a bundle and check every byte that is used.

    The bytes whose digest is checked are the bytes that are returned: nothing is read twice.

    Args:
        folder: `models/NAME/VERSION`.
        variant_name: Which variant of the weights.
        check: Raises for a manifest or variant that is not wanted, before any other file is read.

    Raises:
        BundleError: Something is missing, altered or unknown; the message names the file.
    """
    manifest = _read_manifest(folder / MANIFEST_FILE)
    variants = {variant.name: variant for variant in manifest.variants}
    if variant_name not in variants:
        raise BundleError(f"{folder}: no variant {variant_name!r}, only {', '.join(sorted(variants))}")
    variant = variants[variant_name]
    check(manifest, variant)
    others = {file.name: file for file in manifest.files}
    for name in (TOKENIZER_FILE, GOLDEN_FILE):
        if name not in others:
            raise BundleError(f"{folder / MANIFEST_FILE}: lists no {name}")
    return Bundle(
        manifest=manifest,
        variant=variant,
        tokenizer_json=_parse_text(folder / TOKENIZER_FILE, _read_checked(folder, others[TOKENIZER_FILE])),
        graphs={graph.role: _read_checked(folder, graph.file) for graph in variant.graphs},
        golden=_parse_golden(folder / GOLDEN_FILE, _read_checked(folder, others[GOLDEN_FILE])),
    )


def _read_manifest(path: Path) -> bundle_pb2.Manifest:
    if path.is_symlink():
        raise BundleError(f"{path} is a symbolic link")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    try:
        manifest = json_format.Parse(text, bundle_pb2.Manifest())
    except json_format.ParseError as error:
        raise BundleError(f"{path}: {error}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise BundleError(f"{path}: format_version {manifest.format_version}; this server reads {FORMAT_VERSION}")
    return manifest


def _read_checked(folder: Path, file: bundle_pb2.File) -> bytes:
    path = folder / file.name
    if Path(file.name).name != file.name or file.name in {"", "..", MANIFEST_FILE}:
        raise BundleError(f"{folder / MANIFEST_FILE}: {file.name!r} is not a plain file name")
    try:
        is_link, content = path.is_symlink(), path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise BundleError(f"{path} cannot be read: {error}") from error
    if is_link:
        raise BundleError(f"{path} is a symbolic link")
    if len(content) != file.size_bytes:
        raise BundleError(f"{path} has {len(content)} bytes, the manifest says {file.size_bytes}")
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise BundleError(f"{path} was altered: its SHA-256 is not the manifest's")
    return content


def _parse_text(path: Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: {error}") from error


def _parse_golden(path: Path, content: bytes) -> dict[str, Array]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:
        # A damaged archive makes zipfile, zlib and numpy raise nearly anything.
        raise BundleError(f"{path}: {error}") from error
