"""ONNX files without a bundle around them, as other servers lay them out: `models/NAME/1/model.onnx`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.model_config import CONFIG_FILE, ModelSetup
from headwaiter_server.log import get_logger
from headwaiter_server.model.bundle import FORMAT_VERSION, GOLDEN_FILE, MANIFEST_FILE, TOKENIZER_FILE, Bundle
from headwaiter_server.model.files import MOST_GRAPH_BYTES, digest_file, read_file

_log = get_logger(__name__)

_VARIANT = "fp32"
_DIGEST_START = b"bare"
_OF_BUNDLES = frozenset({MANIFEST_FILE, GOLDEN_FILE, TOKENIZER_FILE})


def is_bare(folder: Path) -> bool:
    """Whether a version's folder holds an ONNX file and nothing of a bundle; one without its manifest is still one.

    Args:
        folder: `models/NAME/VERSION`.
    """
    names = {each.name for each in _files(folder)} if folder.is_dir() else set()
    if names & _OF_BUNDLES:
        return False
    return any(name.endswith(".onnx") for name in names) or (folder.parent / CONFIG_FILE).exists()


def read_bare(folder: Path, variant: str, setup: ModelSetup) -> Bundle:
    """Read an ONNX file and the files of weights beside it, each once.

    The bytes whose digest is logged are the bytes that are loaded.

    Args:
        folder: `models/NAME/VERSION`.
        variant: Which variant of the weights is wanted; there is but one.
        setup: What the configuration beside the versions says.

    Raises:
        BundleError: A file cannot be read.
    """
    if variant != _VARIANT:
        raise BundleError(f"{folder}: no variant {variant!r}: an ONNX file by itself has no variants")
    path = _graph_path(folder, setup)
    graph = read_file(path, MOST_GRAPH_BYTES)
    named = {
        each.name: read_file(each, MOST_GRAPH_BYTES) for word, each in _others(folder, path).items() if word in graph
    }
    files = {
        name: bundle_pb2.File(name=name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        for name, content in {path.name: graph, **named}.items()
    }
    for file in files.values():
        _log.info("bare_model_read", file=str(folder / file.name), sha256=file.sha256)
    manifest = bundle_pb2.Manifest(
        format_version=FORMAT_VERSION,
        task=bundle_pb2.TASK_TENSOR,
        architecture=path.stem,
        graph_kind=bundle_pb2.GRAPH_KIND_PADDED,
        variants=[
            bundle_pb2.Variant(
                name=_VARIANT, graphs=[bundle_pb2.Graph(role=bundle_pb2.GRAPH_ROLE_MODEL, file=files[path.name])]
            )
        ],
        files=[files[name] for name in named],
    )
    return Bundle(
        manifest=manifest,
        variant=manifest.variants[0],
        tokenizer_json="",
        graphs={bundle_pb2.GRAPH_ROLE_MODEL: graph},
        golden={},
        digest=_digest({name: file.sha256 for name, file in files.items()}),
        files=named,
    )


def digest_of_bare(folder: Path, setup: ModelSetup) -> str:
    """What the digest of `read_bare` would be, without holding what it reads: files from elsewhere may be of any size.

    Args:
        folder: `models/NAME/VERSION`.
        setup: What the configuration beside the versions says.

    Raises:
        BundleError: As there.
    """
    path = _graph_path(folder, setup)
    others = _others(folder, path)
    digest, named = digest_file(path, MOST_GRAPH_BYTES, others.keys())
    digests = {others[word].name: digest_file(others[word], MOST_GRAPH_BYTES)[0] for word in named}
    return _digest({path.name: digest, **digests})


def _graph_path(folder: Path, setup: ModelSetup) -> Path:
    path = folder / setup.model_file
    if path.is_dir():
        raise BundleError(f"{path} is a folder: this server loads ONNX files, with weights in plain files beside them")
    return path


def _others(folder: Path, graph: Path) -> dict[bytes, Path]:
    """The files that a graph may name, by how it would.

    Only a plain name in the same folder is ever looked for: whatever else a graph names does not exist for it.
    """
    return {os.fsencode(each.name): each for each in _files(folder) if each != graph}


def _digest(digests: Mapping[str, str]) -> str:
    parts = [_DIGEST_START, *(os.fsencode(f"{name} {digest}") for name, digest in sorted(digests.items()))]
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if not each.is_dir())
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error.strerror}") from error
