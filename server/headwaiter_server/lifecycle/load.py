"""From a bundle on disk to a model that serves: verified, rebuilt, and held to its golden outputs on this processor."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import BundleError
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.lifecycle.manifest import check_manifest, check_names
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.log import get_logger
from headwaiter_server.model.bundle import MANIFEST_FILE, Bundle, read_bundle
from headwaiter_server.model.contract import GenerationModel, Graph
from headwaiter_server.model.seq2seq import CacheGeometry, Seq2SeqModel
from headwaiter_server.tokenizer import TextTokenizer

OpenGraph = Callable[[str, bytes], Graph]
OpenLane = Callable[[str, GenerationModel], GenerationLane]

_log = get_logger(__name__)

# Rows of the golden file that are decoded again at every start; the exporting machine compared hundreds.
_GOLDEN_ROWS = 8
# Another processor may sum in another order; this is far below what changes a greedy choice.
_GOLDEN_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Loader:
    """Loads models.

    Attributes:
        open_graph: Turns the bytes of an ONNX file into a graph.
        open_lane: Gives a model its place in the scheduler.
    """

    open_graph: OpenGraph
    open_lane: OpenLane

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
        bundle = read_bundle(location.folder, variant)
        manifest = bundle.manifest
        try:
            check_manifest(manifest, bundle.variant)
        except BundleError as error:
            raise BundleError(f"{location.folder / MANIFEST_FILE}: {error}") from error
        special = manifest.special_tokens
        refused_id = special.unk_id if manifest.refuse_unknown_tokens and special.HasField("unk_id") else None
        tokenizer = TextTokenizer.from_json(bundle.tokenizer_json, manifest.limits.max_source_tokens, refused_id)
        model = self._build(location, bundle)
        try:
            _check_golden(model, bundle)
        except BundleError as error:
            raise BundleError(f"{location.folder}: {error}") from error
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
            lane=self.open_lane(location.name, model),
        )

    def _build(self, location: BundleLocation, bundle: Bundle) -> Seq2SeqModel:
        listed = {each.role: each for each in bundle.variant.graphs}

        def graph(role: bundle_pb2.GraphRole) -> Graph:
            name = f"{location.folder} {bundle_pb2.GraphRole.Name(role)}"
            opened = self.open_graph(name, bundle.graphs[role])
            check_names(name, listed[role], opened)
            return opened

        cache, special = bundle.manifest.kv_cache, bundle.manifest.special_tokens
        return Seq2SeqModel(
            graph(bundle_pb2.GRAPH_ROLE_ENCODER),
            graph(bundle_pb2.GRAPH_ROLE_DECODER_STEP),
            CacheGeometry(cache.num_layers, cache.num_heads, cache.head_dim),
            pad_id=special.pad_id,
            bos_id=special.bos_id,
            eos_id=special.eos_id,
        )


def _check_golden(model: GenerationModel, bundle: Bundle) -> None:
    """Decode some of the exporting machine's texts on this one; warms the model up, too.

    Raises:
        BundleError: The graphs do not run, or do not give what they gave there.
    """
    try:
        difference, wrong_tokens = _compare_with_golden(model, bundle)
    except Exception as error:
        # Whatever a strange graph or file makes numpy or onnxruntime raise: the bundle does not serve.
        raise BundleError(f"the graphs do not run on the golden inputs: {error}") from error
    if not difference <= _GOLDEN_TOLERANCE or wrong_tokens:  # not <=: a NaN is no match
        raise BundleError(
            f"this processor computes something else than the exporting one: largest difference of the first logits "
            f"{difference:.2g} (limit {_GOLDEN_TOLERANCE}), {wrong_tokens} different tokens"
        )


def _compare_with_golden(model: GenerationModel, bundle: Bundle) -> tuple[float, int]:
    """The largest difference of the first logits, and how many greedy tokens differ."""
    golden = bundle.golden
    lengths = golden["source_lengths"][:_GOLDEN_ROWS]
    rows = len(lengths)
    batch = model.new_batch()
    batch.join(
        [Encoding(ids[:n].tolist()) for ids, n in zip(golden["source_ids"][:_GOLDEN_ROWS], lengths, strict=True)],
        range(rows),
    )
    tokens = np.full(rows, model.bos_id, np.int64)
    running = np.ones(rows, bool)
    expected_logits = golden["first_logits"][:_GOLDEN_ROWS]
    difference, wrong_tokens = math.nan, 0
    for step, expected in enumerate(golden["tokens"][:_GOLDEN_ROWS].T):
        logits = batch.step(tokens, 0, rows)
        if step == 0:
            if logits.shape != expected_logits.shape:
                raise ValueError(f"logits of shape {logits.shape} against {expected_logits.shape}")
            difference = float(np.abs(logits - expected_logits).max())
        tokens = logits.argmax(axis=-1)
        wrong_tokens += int((running & (tokens != expected)).sum())
        running &= tokens != model.eos_id
        if not running.any():
            break
    return difference, wrong_tokens
