"""A bundle's files, read once, checked against their digests, and never trusted before."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from google.protobuf import json_format
from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.errors import BundleError
from headwaiter_server.model.contract import Array
from headwaiter_server.model.files import MOST_GRAPH_BYTES, MOST_SIDE_BYTES, MOST_TEXT_BYTES, read_file
from headwaiter_server.pacing import paced

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
GOLDEN_FILE = "golden.npz"

# What the golden file may unfold to: it is compressed, and a small one could hold any number of zeros.
_MOST_GOLDEN_BYTES = 1 << 30


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, or rather one variant of it.

    Attributes:
        manifest: Its manifest.
        variant: The chosen variant.
        tokenizer_json: The text of tokenizer.json; nothing for a model of tensors.
        graphs: The bytes of each graph of the variant, by role.
        golden: Inputs and outputs that the exporting machine computed.
        digest: SHA-256 of the manifest, which names that of every other file: bundles of one digest are the same.
        files: Files with weights that a graph names; bundles have none.
    """

    manifest: bundle_pb2.Manifest
    variant: bundle_pb2.Variant
    tokenizer_json: str
    graphs: dict[int, bytes]
    golden: dict[str, Array]
    digest: str
    files: Mapping[str, bytes] = field(default_factory=dict)


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
    content = read_file(folder / MANIFEST_FILE, MOST_TEXT_BYTES)
    manifest = _parse_manifest(folder / MANIFEST_FILE, content)
    variants = {variant.name: variant for variant in manifest.variants}
    if variant_name not in variants:
        raise BundleError(f"{folder}: no variant {variant_name!r}, only {', '.join(sorted(variants))}")
    variant = variants[variant_name]
    check(manifest, variant)
    others = {file.name: file for file in manifest.files}
    tensors = manifest.task == bundle_pb2.TASK_TENSOR
    for name in (GOLDEN_FILE,) if tensors else (TOKENIZER_FILE, GOLDEN_FILE):
        if name not in others:
            raise BundleError(f"{folder / MANIFEST_FILE}: lists no {name}")
    return Bundle(
        manifest=manifest,
        variant=variant,
        tokenizer_json=""
        if tensors
        else _parse_text(folder / TOKENIZER_FILE, _read_checked(folder, others[TOKENIZER_FILE])),
        graphs={graph.role: _read_checked(folder, graph.file, MOST_GRAPH_BYTES) for graph in variant.graphs},
        golden=_parse_golden(folder / GOLDEN_FILE, _read_checked(folder, others[GOLDEN_FILE])),
        digest=hashlib.sha256(content).hexdigest(),
    )


def digest_of_bundle(folder: Path) -> str:
    """What `Bundle.digest` would be, without reading more than the manifest.

    Raises:
        BundleError: It cannot be read.
    """
    return hashlib.sha256(read_file(folder / MANIFEST_FILE, MOST_TEXT_BYTES)).hexdigest()


def _parse_manifest(path: Path, content: bytes) -> bundle_pb2.Manifest:
    try:
        manifest = json_format.Parse(_parse_text(path, content), bundle_pb2.Manifest())
    except (json_format.ParseError, RecursionError, ValueError) as error:
        # Of the parser's own class are most of them; not those for brackets too deep and numbers too long.
        raise BundleError(f"{path} is no manifest that this server reads", error) from error
    if manifest.format_version != FORMAT_VERSION:
        raise BundleError(f"{path}: format_version {manifest.format_version}; this server reads {FORMAT_VERSION}")
    return manifest


def _read_checked(folder: Path, file: bundle_pb2.File, most_bytes: int = MOST_SIDE_BYTES) -> bytes:
    path = folder / file.name
    if Path(file.name).name != file.name or file.name in {"", "..", MANIFEST_FILE}:
        raise BundleError(f"{folder / MANIFEST_FILE}: {file.name!r} is not a plain file name")
    content = read_file(path, most_bytes, file.size_bytes)
    if paced(partial(hashlib.sha256, content)).hexdigest() != file.sha256:
        raise BundleError(f"{path} was altered: its SHA-256 is not the manifest's")
    return content


def _parse_text(path: Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is no text in UTF-8", error) from error


def _parse_golden(path: Path, content: bytes) -> dict[str, Array]:
    try:
        _check_unfolded(content)
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:
        # A damaged archive makes zipfile, zlib and numpy raise nearly anything.
        raise BundleError(f"{path} is no archive that can be read", error) from error


def _check_unfolded(archive: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(archive)) as entries:
        unfolded = sum(entry.file_size for entry in entries.infolist())
    if unfolded > _MOST_GOLDEN_BYTES:
        raise ValueError(f"it unfolds to {unfolded} bytes, the limit is {_MOST_GOLDEN_BYTES}")
