"""From a bundle on disk to a model that can run: verified, rebuilt, and held to its golden outputs on this processor.

Nothing here knows of a server: no lane, no scheduler, no settings. The same is done in the server and, before it, in a
process of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast
from weakref import WeakValueDictionary

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.bare import digest_of_bare, is_bare, read_bare
from headwaiter_server.lifecycle.encoders import HEADS, build_encoder
from headwaiter_server.lifecycle.generators import build_generator
from headwaiter_server.lifecycle.golden import check_encoder
from headwaiter_server.lifecycle.golden_generation import check_generation
from headwaiter_server.lifecycle.manifest import check_manifest, check_names
from headwaiter_server.lifecycle.model_config import ModelSetup, read_setup
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.lifecycle.subject import Subject, TensorSubject
from headwaiter_server.lifecycle.tensors import build_tensors
from headwaiter_server.log import get_logger
from headwaiter_server.model.bundle import MANIFEST_FILE, Bundle, digest_of_bundle, read_bundle
from headwaiter_server.model.cached import CachedModel
from headwaiter_server.model.contract import BindableGraph, EncoderModel, Graph, TensorGraph
from headwaiter_server.model.tensors import TensorModel
from headwaiter_server.tokenizer import TextTokenizer

# Name for messages, bytes; and where there are any, `files` with weights that the graph names, and `threads` of a run.
OpenGraph = Callable[..., Graph]

_log = get_logger(__name__)


# Versions of a model mostly share their tokenizer, and so do their models: to read one takes memory, and the
# interpreter lock for tens of milliseconds in one piece, in which nobody is served.
_TOKENIZERS: WeakValueDictionary[tuple[bytes, int, int | None], TextTokenizer] = WeakValueDictionary()


@dataclass(frozen=True, kw_only=True)
class BuiltModel:
    """A model that has shown that it runs, and that nobody can call yet.

    Attributes:
        location: Where its bundle lies.
        variant: Which variant of its weights it is.
        manifest: Its bundle's manifest.
        tokenizer: Its tokenizer; None for a model of tensors.
        body: What runs: a model that generates, or one that answers at once with what its runs are planned by.
        digest: Of its files; see `digest_of`.
    """

    location: BundleLocation
    variant: str
    manifest: bundle_pb2.Manifest
    tokenizer: TextTokenizer | None
    body: CachedModel | Subject
    digest: str


def digest_of(location: BundleLocation) -> str:
    """A digest of all files that a model is built from, as they are now.

    Args:
        location: Where they lie.

    Raises:
        BundleError: They cannot be read.
    """
    if location.problem:
        raise BundleError(location.problem, location.said)
    setup = read_setup(location.folder.parent)
    if is_bare(location.folder):
        return _with_setup(digest_of_bare(location.folder, setup), setup)
    return _with_setup(digest_of_bundle(location.folder), setup)


def _with_setup(digest: str, setup: ModelSetup) -> str:
    """The digest of files, and of what the configuration beside them says; of files alone where it says nothing."""
    return hashlib.sha256(digest.encode() + setup.built_by).hexdigest() if setup.built_by else digest


def check_tried(location: BundleLocation, digest: str, tried: str) -> None:
    """Refuse other files than those that have passed their trial, before a library is given anything of them.

    Args:
        location: Where they lie.
        digest: Of those that were read; see `digest_of`.
        tried: Of those that were tried; empty if none were.

    Raises:
        BundleError: They are others.
    """
    if tried and digest != tried:
        raise BundleError(f"{location.folder}: its files were changed while it was loaded")


def build_model(
    location: BundleLocation, variant: str, open_graph: OpenGraph, tried: str = "", *, live: bool = False
) -> BuiltModel:
    """Build the model of one bundle.

    Args:
        location: Where it is.
        variant: Which variant of its weights.
        open_graph: Turns the bytes of an ONNX file into a graph, by a name for messages.
        tried: The digest of the files that have passed their trial, in which their golden outputs were computed again
            on this processor; empty if none were tried.
        live: Whether models serve meanwhile. What the trial has computed is then not computed once more.

    Raises:
        BundleError: It cannot be trusted, read or run, or is not what was tried; the message says where and why.
    """
    if location.problem:
        raise BundleError(location.problem, location.said)

    def check(manifest: bundle_pb2.Manifest, chosen: bundle_pb2.Variant) -> None:
        with _located(location.folder / MANIFEST_FILE):
            check_manifest(manifest, chosen)

    # Read once, so that what a model is built by is what its digest is taken of.
    setup = read_setup(location.folder.parent)
    bare = is_bare(location.folder)
    bundle = read_bare(location.folder, variant, setup) if bare else read_bundle(location.folder, variant, check)
    check_tried(location, _with_setup(bundle.digest, setup), tried)
    manifest = bundle.manifest
    if manifest.task == bundle_pb2.TASK_TENSOR:
        return _build_tensors(location, bundle, setup, open_graph)
    _warn_of(setup.beside_policy, location)
    special = manifest.special_tokens
    refused_id = special.unk_id if manifest.refuse_unknown_tokens and special.HasField("unk_id") else None
    with _located(location.folder):
        tokenizer = _tokenizer(bundle.tokenizer_json, manifest.limits.max_source_tokens, refused_id)
    listed = {each.role: each for each in bundle.variant.graphs}

    def graph(role: bundle_pb2.GraphRole) -> Graph:
        name = f"{location.folder} {bundle_pb2.GraphRole.Name(role)}"
        opened = open_graph(name, bundle.graphs[role])
        check_names(name, listed[role], opened)
        return opened

    body: CachedModel | Subject
    if manifest.task in HEADS:
        encoder = build_encoder(manifest, bundle.variant, graph(bundle_pb2.GRAPH_ROLE_MODEL))
        if not (tried and live):
            with _located(location.folder):
                check_encoder(encoder, tokenizer, bundle)
        body = _subject(location, bundle, encoder)
    else:
        # Whatever opens graphs for a server opens such as can be bound, and tell what their tensors are.
        graphs = {role: cast("BindableGraph", graph(role)) for role in listed}
        with _located(location.folder):
            body = build_generator(manifest, bundle.variant, graphs)
        if not (tried and live):
            with _located(location.folder):
                check_generation(body, bundle)
    return BuiltModel(
        location=location,
        variant=variant,
        manifest=manifest,
        tokenizer=tokenizer,
        body=body,
        digest=_with_setup(bundle.digest, setup),
    )


def _warn_of(fields: Sequence[str], location: BundleLocation) -> None:
    if fields:
        _log.warning("model_config_without_effect", model=location.name, fields=list(fields))


def _build_tensors(location: BundleLocation, bundle: Bundle, setup: ModelSetup, open_graph: OpenGraph) -> BuiltModel:
    _warn_of(setup.ignored, location)
    (listed,) = bundle.variant.graphs
    content, name = bundle.graphs[listed.role], str(location.folder / listed.file.name)
    wishes = {"files": bundle.files, "threads": setup.threads}
    # Whatever opens graphs for a server opens such as tell what their tensors are.
    graph = cast("TensorGraph", open_graph(name, content, **{key: wish for key, wish in wishes.items() if wish}))
    if listed.inputs:
        check_names(name, listed, graph)
    with _located(location.folder):
        built = build_tensors(graph, listed, setup, bundle.golden)
    for remark in built.remarks:
        _log.info("tensor_model_checked", model=location.name, version=location.version, remark=remark)
    signature = built.model.signature
    return BuiltModel(
        location=location,
        variant=bundle.variant.name,
        manifest=bundle.manifest,
        tokenizer=None,
        body=TensorSubject(
            name=location.name,
            folder=location.folder.parent,
            model=built.model,
            graph=content,
            build=cast("Callable[[Graph], TensorModel]", built.build),
            longest_tokens=signature.max_batch_size or 1,
            make_text=built.rows,
            signature=signature,
            setup=setup,
            files=bundle.files,
            runs=built.runs,
        ),
        digest=_with_setup(bundle.digest, setup),
    )


def _tokenizer(text: str, max_tokens: int, refused_id: int | None) -> TextTokenizer:
    key = (hashlib.sha256(text.encode()).digest(), max_tokens, refused_id)
    tokenizer = _TOKENIZERS.get(key)
    if tokenizer is None:
        tokenizer = _TOKENIZERS[key] = TextTokenizer.from_json(text, max_tokens, refused_id)
    return tokenizer


def _subject(location: BundleLocation, bundle: Bundle, model: EncoderModel) -> Subject:
    golden = bundle.golden
    ids = golden["input_ids"][0, : golden["lengths"][0]].tolist()
    return Subject(
        name=location.name,
        folder=location.folder.parent,
        model=model,
        graph=bundle.graphs[bundle_pb2.GRAPH_ROLE_MODEL],
        build=partial(build_encoder, bundle.manifest, bundle.variant),
        longest_tokens=bundle.manifest.limits.max_source_tokens,
        make_text=lambda tokens: Encoding((ids * tokens)[:tokens]),
        most_tokens=bundle.variant.quantization.max_run_tokens or None,
    )


@contextmanager
def _located(path: Path) -> Iterator[None]:
    """Say in the message of a bundle's error where the bundle lies."""
    try:
        yield
    except BundleError as error:
        raise error.within(path) from error
