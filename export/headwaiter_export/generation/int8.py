"""An int8 variant of a model that generates, from beginning to end.

It is made like that of an encoder (`quantization`): weights with a scale for each column, activations with a scale for
each token, so that a row of a step is computed the same whatever the other rows are. It is judged behind given tokens,
place by place: whether it says there what fp32 says, and whether the same token is the likeliest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from headwaiter_proto.v1 import bundle_pb2

from headwaiter_export.bundle import graph_entry
from headwaiter_export.errors import NothingToQuantizeError, TextsError
from headwaiter_export.generation.form import Form
from headwaiter_export.generation.given import Given, answered, divided, read, read_all
from headwaiter_export.generation.quality import RUN_TOKENS, compare, group_differences, speedup
from headwaiter_export.generation.runtime import FloatArray, Graphs, packed
from headwaiter_export.progress import Progress
from headwaiter_export.quantization.bounds import Wishes
from headwaiter_export.quantization.calibration import Inputs, sample, watching
from headwaiter_export.quantization.certificate import quality_point
from headwaiter_export.quantization.corpus import FEWEST_TEXTS, Corpus, default_corpus, halves
from headwaiter_export.quantization.judge import Quality
from headwaiter_export.quantization.products import Site, find_sites, matrix
from headwaiter_export.quantization.rewrite import rewritten
from headwaiter_export.quantization.selection import Plans, choose, worthwhile
from headwaiter_export.quantization.smoothing import plan_for
from headwaiter_export.quantization.vnni import SLOWER, lacks_vnni
from headwaiter_export.runtime import Graph
from headwaiter_export.spec import GraphSpec
from headwaiter_export.texts import read_lines
from headwaiter_export.tracing import write_model

NAME: Final = "int8"
# Tokens of a text that are judged, or behind it.
_MOST_TOKENS: Final = 64
# Texts to choose on and to certify on, of each set; tokens that are looked into.
_CHOOSING: Final = 64
_CERTIFYING: Final = 200
_OBSERVED_TOKENS: Final = 1024
_TOGETHER: Final = 16
# A tolerance for differences that there are not.
_NOTHING: Final = 1e-9


@dataclass(frozen=True)
class Source:
    """The fp32 model to make smaller.

    Attributes:
        folder: The bundle's folder while it is filled; it holds the graphs.
        specs: Files and signatures of the graphs.
        form: How they are run.
        ends: Tokens that end a text.
        max_new_tokens: Most tokens that an answer may have; of a decoder-only model, of a text.
        path: Texts, one a line, where the user names none; None has the default ones.
        read: Texts to tokens; those that the model does not take are left out.
    """

    folder: Path
    specs: Sequence[GraphSpec]
    form: Form
    ends: frozenset[int]
    max_new_tokens: int
    path: Path | None
    read: Callable[[Sequence[str]], list[list[int]]]

    @cached_property
    def fp32(self) -> Graphs:
        """The model."""
        return self.form.model([Graph(self.folder / spec.file_name) for spec in self.specs])


def make_variant(source: Source, wishes: Wishes, progress: Progress) -> bundle_pb2.Variant:
    """Write the int8 graphs beside the fp32 ones; their entry for the manifest.

    Raises:
        NothingToQuantizeError: The graphs have no product with a constant matrix.
        TextsError: The texts cannot be read, or too few of them fit the model.
        BelowBoundError: The variant is worse or slower than asked for.
        GraphError: A graph came out wrong.
    """
    bounds = wishes.bounds.of_tokens()
    progress.stage("int8: observe")
    corpus = _corpus(source, wishes)
    choosing = _given(source, "texts to choose on", corpus.choosing, _CHOOSING)
    certifying = {name: _given(source, name, texts, _CERTIFYING) for name, texts in corpus.certifying.items()}
    models = [onnx.load_from_string((source.folder / spec.file_name).read_bytes()) for spec in source.specs]
    sites = [find_sites(model) for model in models]
    if not any(sites):
        raise NothingToQuantizeError("the graphs multiply with no constant matrix; int8 has nothing to do")
    inputs = _observe(source, models, sites, choosing)
    work = {site: site.work * inputs[site].count for own in sites for site in own}
    worth = worthwhile(work)
    plans = {}
    progress.stage("int8: plan", len(worth))
    for model, own in zip(models, sites, strict=True):
        for site in own:
            if site in worth:
                weights = np.concatenate([matrix(model, product) for product in site.products], 1)
                plans[site] = plan_for(inputs[site], weights)
                progress.advance()

    specs = [replace(spec, file_name=f"{Path(spec.file_name).stem}.{NAME}.onnx") for spec in source.specs]
    expected = read_all(source.fp32, choosing, _TOGETHER)

    def write(chosen: Plans) -> Graphs:
        graphs = []
        for model, own, spec in zip(models, sites, specs, strict=True):
            smaller = rewritten(model, {site: chosen[site] for site in own if site in chosen}, wishes.weight_bits)
            write_model(smaller, spec, source.folder)
            graphs.append(Graph(source.folder / spec.file_name))
        return source.form.model(graphs)

    def judged(chosen: Plans) -> Quality:
        return compare(expected, read_all(write(chosen), choosing, _TOGETHER))

    choice = choose(plans, work, bounds, judged, progress)
    progress.note(choice.reason)
    variant = write(choice.plans)
    points, parity = _certified(source.fp32, variant, certifying, progress)
    progress.stage("int8: time")
    certificate = bundle_pb2.QuantizationCertificate(
        scheme=f"int{wishes.weight_bits} weights per column, int8 activations per token",
        fp32_weights=[
            product.label for own in sites for site in own if site not in choice.plans for product in site.products
        ],
        quantized_weights=sum(len(site.products) for site in choice.plans),
        points=points,
        speedup=speedup(source.fp32, variant, next(iter(certifying.values()))),
        max_run_tokens=0 if source.form.goes_on else RUN_TOKENS,
    )
    if lacks_vnni():
        progress.note(SLOWER)
    bounds.check(certificate)
    seen = max(point.max_batch_diff for point in points)
    return bundle_pb2.Variant(
        name=NAME,
        graphs=[graph_entry(spec, source.folder) for spec in specs],
        # Not against PyTorch, which `quantization` is about: a text in a group against the same text alone.
        parity=bundle_pb2.ParityCertificate(tolerance=bounds.batch_difference or seen or _NOTHING, points=parity),
        quantization=certificate,
    )


def _corpus(source: Source, wishes: Wishes) -> Corpus:
    path = wishes.texts or source.path
    if path is None:
        return default_corpus()
    choosing, held_out = halves(read_lines(path))
    return Corpus(choosing, {"held-out texts": held_out})


def _given(source: Source, name: str, texts: Sequence[str], most: int) -> list[Given]:
    """Texts with what follows: their own tokens, or fp32's answer.

    Raises:
        TextsError: Too few of them fit the model.
    """
    rows = source.read(texts)
    if source.form.goes_on:
        found = divided(rows, min(_MOST_TOKENS, source.max_new_tokens))[:most]
    else:
        limit = min(_MOST_TOKENS, source.max_new_tokens)
        found = answered(source.fp32, rows[:most], source.ends, limit, _TOGETHER)
    if len(found) < FEWEST_TEXTS:
        raise TextsError(
            f"int8: {len(found)} of {len(texts)} {name} fit the model; at least {FEWEST_TEXTS} are needed:"
            " --int8-texts names a file of texts, one a line"
        )
    return found


def _observe(
    source: Source, models: Sequence[onnx.ModelProto], sites: Sequence[Sequence[Site]], texts: Sequence[Given]
) -> Mapping[Site, Inputs]:
    """What flows into the products of the graphs."""
    lengths = np.cumsum([len(each.text) + len(each.tokens) for each in texts])
    observed = texts[: 1 + int(np.searchsorted(lengths, _OBSERVED_TOKENS))]
    seen: dict[Site, list[FloatArray]] = {site: [] for own in sites for site in own}

    def keep(own: Sequence[Site], values: Mapping[str, FloatArray]) -> None:
        for site in own:
            seen[site].append(values[site.input].reshape(-1, values[site.input].shape[-1]))

    whole = [Graph(source.folder / spec.file_name) for spec in source.specs]
    watched = watching(models[-1], sites[-1], source.folder, kept=True)
    decoder = source.form.model([*whole[:-1], watched], [site.input for site in sites[-1]])
    encoder = None if source.form.goes_on else watching(models[0], sites[0], source.folder)
    for start in range(0, len(observed), _TOGETHER):
        group = observed[start : start + _TOGETHER]
        if encoder is not None:
            keep(sites[0], encoder.run(packed([each.text for each in group])))
        rows, _ = read(decoder, group)
        for values in rows.seen:
            keep(sites[-1], values)
    return {site: sample(np.concatenate(parts)) for site, parts in seen.items()}


def _certified(
    fp32: Graphs, variant: Graphs, sets: Mapping[str, Sequence[Given]], progress: Progress
) -> tuple[list[bundle_pb2.QualityPoint], list[bundle_pb2.ParityPoint]]:
    points, groups = [], []
    progress.stage("int8: certify", len(sets))
    for name, texts in sets.items():
        quality = compare(read_all(fp32, texts, _TOGETHER), read_all(variant, texts, _TOGETHER))
        compared = group_differences(variant, texts)
        groups += compared
        points.append(quality_point(name, len(texts), quality, compared))
        progress.advance()
    return points, groups
