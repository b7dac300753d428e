"""From a bundle on disk to a model that serves: verified, rebuilt, and held to its golden outputs on this processor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.batching.lane import EncoderLane
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import BundleError
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.lifecycle.encoders import HEADS, build_encoder
from headwaiter_server.lifecycle.golden import check_encoder, check_generation
from headwaiter_server.lifecycle.manifest import check_manifest, check_names
from headwaiter_server.lifecycle.planning import Subject
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.log import get_logger
from headwaiter_server.model.bundle import MANIFEST_FILE, Bundle, read_bundle
from headwaiter_server.model.contract import EncoderModel, GenerationModel, Graph
from headwaiter_server.model.seq2seq import CacheGeometry, Seq2SeqModel
from headwaiter_server.tokenizer import TextTokenizer

OpenGraph = Callable[[str, bytes], Graph]
OpenGenerationLane = Callable[[str, GenerationModel], GenerationLane]
OpenEncoderLane = Callable[[str, EncoderModel], EncoderLane]
PlanEncoder = Callable[[Subject, EncoderLane], None]

_log = get_logger(__name__)


def _as_it_is(_subject: Subject, _lane: EncoderLane) -> None:
    """Let a model run as its lane was opened."""


@dataclass(frozen=True)
class Loader:
    """Loads models.

    Attributes:
        open_graph: Turns the bytes of an ONNX file into a graph.
        open_generation_lane: Gives a model that generates its place in the scheduler.
        open_encoder_lane: Gives a model that answers at once its place there.
        plan_encoder: Decides how such a model runs, before the first call.
    """

    open_graph: OpenGraph
    open_generation_lane: OpenGenerationLane
    open_encoder_lane: OpenEncoderLane
    plan_encoder: PlanEncoder = _as_it_is

    def load(self, location: BundleLocation, variant: str) -> ServedModel:
        """Load one bundle.

        Args:
            location: Where it is.
            variant: Which variant of its weights.

        Raises:
            BundleError: It cannot be trusted, read or run; the message says where and why.
        """
        started = time.monotonic()
        if location.problem:
            raise BundleError(location.problem)

        def check(manifest: bundle_pb2.Manifest, chosen: bundle_pb2.Variant) -> None:
            with _located(location.folder / MANIFEST_FILE):
                check_manifest(manifest, chosen)

        bundle = read_bundle(location.folder, variant, check)
        manifest = bundle.manifest
        special = manifest.special_tokens
        refused_id = special.unk_id if manifest.refuse_unknown_tokens and special.HasField("unk_id") else None
        tokenizer = TextTokenizer.from_json(bundle.tokenizer_json, manifest.limits.max_source_tokens, refused_id)
        lane = self._open(location, bundle, tokenizer)
        _log.info(
            "model_loaded",
            model=location.name,
            version=location.version,
            variant=variant,
            seconds=round(time.monotonic() - started, 3),
        )
        return ServedModel(
            name=location.name,
            version=location.version,
            variant=variant,
            manifest=manifest,
            tokenizer=tokenizer,
            lane=lane,
        )

    def _open(self, location: BundleLocation, bundle: Bundle, tokenizer: TextTokenizer) -> GenerationLane | EncoderLane:
        """Build the model, hold it to its golden outputs, and give it its place in the scheduler."""
        listed = {each.role: each for each in bundle.variant.graphs}

        def graph(role: bundle_pb2.GraphRole) -> Graph:
            name = f"{location.folder} {bundle_pb2.GraphRole.Name(role)}"
            opened = self.open_graph(name, bundle.graphs[role])
            check_names(name, listed[role], opened)
            return opened

        if bundle.manifest.task in HEADS:
            encoder = build_encoder(bundle.manifest, bundle.variant, graph(bundle_pb2.GRAPH_ROLE_MODEL))
            with _located(location.folder):
                check_encoder(encoder, tokenizer, bundle)
            lane = self.open_encoder_lane(location.name, encoder)
            ids = bundle.golden["input_ids"][0, : bundle.golden["lengths"][0]].tolist()
            with _located(location.folder):
                self.plan_encoder(
                    Subject(
                        name=location.name,
                        folder=location.folder.parent,
                        model=encoder,
                        graph=bundle.graphs[bundle_pb2.GRAPH_ROLE_MODEL],
                        build=partial(build_encoder, bundle.manifest, bundle.variant),
                        longest_tokens=bundle.manifest.limits.max_source_tokens,
                        make_text=lambda tokens: Encoding((ids * tokens)[:tokens]),
                    ),
                    lane,
                )
            return lane
        cache, special = bundle.manifest.kv_cache, bundle.manifest.special_tokens
        model = Seq2SeqModel(
            graph(bundle_pb2.GRAPH_ROLE_ENCODER),
            graph(bundle_pb2.GRAPH_ROLE_DECODER_STEP),
            CacheGeometry(cache.num_layers, cache.num_heads, cache.head_dim),
            bos_id=special.bos_id,
            eos_id=special.eos_id,
        )
        with _located(location.folder):
            check_generation(model, bundle)
        return self.open_generation_lane(location.name, model)


@contextmanager
def _located(path: Path) -> Iterator[None]:
    """Say in the message of a bundle's error where the bundle lies."""
    try:
        yield
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
