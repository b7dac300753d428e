"""An int8 variant from beginning to end: observe, plan, choose, write, certify, refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from headwaiter_proto.v1 import bundle_pb2

from headwaiter_export.bundle import graph_entry
from headwaiter_export.encoders.layout import Tokens
from headwaiter_export.errors import NothingToQuantizeError, TextsError
from headwaiter_export.progress import Progress
from headwaiter_export.quantization.bounds import Wishes
from headwaiter_export.quantization.calibration import observe
from headwaiter_export.quantization.certificate import quality_points, speedup
from headwaiter_export.quantization.corpus import FEWEST_TEXTS, corpus_of, default_corpus
from headwaiter_export.quantization.judge import RUN_TOKENS, Judge, Quality
from headwaiter_export.quantization.products import find_sites, matrix
from headwaiter_export.quantization.rewrite import rewritten
from headwaiter_export.quantization.selection import Plans, choose, worthwhile
from headwaiter_export.quantization.smoothing import plan_for
from headwaiter_export.quantization.vnni import SLOWER, lacks_vnni
from headwaiter_export.runtime import Graph
from headwaiter_export.spec import GraphSpec
from headwaiter_export.tracing import write_model

NAME: Final = "int8"
FILE: Final = "model.int8.onnx"
# Of the texts to choose on; the certificate uses all of its own.
_CHOOSING_TEXTS: Final = 400


@dataclass(frozen=True)
class Source:
    """The fp32 graph to make smaller.

    Attributes:
        folder: The bundle's folder while it is filled; it holds the graph.
        spec: The graph's file and signature.
        judge: Runs it.
        read: Texts to tokens.
        max_tokens: Tokens of the longest text.
    """

    folder: Path
    spec: GraphSpec
    judge: Judge
    read: Callable[[Sequence[str]], list[Tokens]]
    max_tokens: int


def make_variant(source: Source, wishes: Wishes, progress: Progress) -> bundle_pb2.Variant:
    """Write the int8 graph beside the fp32 one; its entry for the manifest.

    Raises:
        NothingToQuantizeError: The graph has no product with a constant matrix.
        TextsError: The texts cannot be read, or too few of them fit the model.
        BelowBoundError: The variant is worse or slower than asked for.
        GraphError: The graph came out wrong.
    """
    progress.stage("int8: observe")
    corpus = default_corpus() if wishes.texts is None else corpus_of(wishes.texts)
    choosing = _fitting(source, "texts to choose on", corpus.choosing)
    certifying = {name: _fitting(source, name, texts) for name, texts in corpus.certifying.items()}
    path = source.folder / source.spec.file_name
    model, fp32 = onnx.load_from_string(path.read_bytes()), Graph(path)
    sites = find_sites(model)
    if not sites:
        raise NothingToQuantizeError(
            f"{source.spec.file_name} multiplies with no constant matrix; int8 has nothing to do"
        )
    inputs = observe(model, sites, source.judge.layout, choosing, source.folder)
    work = {site: site.work * inputs[site].count for site in sites}
    plans = {}
    worth = worthwhile(work)
    progress.stage("int8: plan", len(worth))
    for site in sites:
        if site in worth:
            weights = np.concatenate([matrix(model, product) for product in site.products], 1)
            plans[site] = plan_for(inputs[site], weights)
            progress.advance()

    spec = replace(source.spec, file_name=FILE)
    sample = choosing[:_CHOOSING_TEXTS]
    expected = source.judge.answers(fp32, sample)

    def write(chosen: Plans) -> Graph:
        smaller = rewritten(model, chosen, wishes.weight_bits)
        onnx.checker.check_model(smaller)
        write_model(smaller, spec, source.folder)
        return Graph(source.folder / FILE)

    def judged(chosen: Plans) -> Quality:
        return source.judge.compare(expected, source.judge.answers(write(chosen), sample))

    choice = choose(plans, work, wishes.bounds, judged, progress)
    progress.note(choice.reason)
    variant = write(choice.plans)
    points, parity = quality_points(source.judge, fp32, variant, certifying, progress)
    progress.stage("int8: time")
    certificate = bundle_pb2.QuantizationCertificate(
        scheme=f"int{wishes.weight_bits} weights per column, int8 activations per token",
        fp32_weights=[product.label for site in sites if site not in choice.plans for product in site.products],
        quantized_weights=sum(len(site.products) for site in choice.plans),
        points=points,
        speedup=speedup(source.judge, fp32, variant, next(iter(certifying.values()))),
        # Attention adds up its values in blocks of some hundreds of tokens; a run of more may round otherwise.
        max_run_tokens=RUN_TOKENS if source.judge.layout.kind == bundle_pb2.GRAPH_KIND_PACKED else 0,
    )
    if lacks_vnni():
        progress.note(SLOWER)
    wishes.bounds.check(certificate)
    allowed = wishes.bounds.batch_difference
    return bundle_pb2.Variant(
        name=NAME,
        graphs=[graph_entry(spec, source.folder)],
        # Not against PyTorch, which `quantization` is about: a text in a batch against the same text alone.
        parity=bundle_pb2.ParityCertificate(
            tolerance=max(point.max_batch_diff for point in points) if allowed is None else allowed, points=parity
        ),
        quantization=certificate,
    )


def _fitting(source: Source, name: str, texts: Sequence[str]) -> list[Tokens]:
    fitting = [tokens for tokens in source.read(texts) if 0 < len(tokens.ids) <= source.max_tokens]
    if len(fitting) < FEWEST_TEXTS:
        raise TextsError(
            f"int8: {len(fitting)} of {len(texts)} {name} fit the model; at least {FEWEST_TEXTS} are needed"
        )
    return fitting
