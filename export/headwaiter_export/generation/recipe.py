"""Recipe for Hugging Face checkpoints that generate: graphs whose key/value cache is written in place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from headwaiter_proto.v1 import bundle_pb2

from headwaiter_export.architectures import Options
from headwaiter_export.bundle import (
    FORMAT_VERSION,
    GOLDEN_FILE,
    TOKENIZER_FILE,
    file_entry,
    graph_entry,
    tool_versions,
)
from headwaiter_export.encoders.network import load_network, quiet
from headwaiter_export.errors import CorruptCheckpointError, GraphRejectedError, UnknownArchitectureError
from headwaiter_export.generation import cached, graph, int8, parts, seq2seq, signature
from headwaiter_export.generation.checkpoint import Checkpoint, read_checkpoint
from headwaiter_export.generation.form import Form
from headwaiter_export.generation.gate import Continuation, Gate
from headwaiter_export.generation.golden import write_golden
from headwaiter_export.generation.graph import Suppress, cache_shape
from headwaiter_export.generation.reference import continuations
from headwaiter_export.progress import Progress
from headwaiter_export.runtime import Graph
from headwaiter_export.spec import GraphSpec
from headwaiter_export.texts import SAMPLE_FILE, Texts, read_lines
from headwaiter_export.threads import one_thread
from headwaiter_export.tracing import write_graph

DEFAULT_TOLERANCE: Final = 1e-4
# Texts at each of whose tokens PyTorch has a clear choice, and most that are tried to find so many: of a bundle that is
# written no fewer than the first were compared to their end, as the gate refuses one of which more than half were not.
PROMPTS: Final = 200
_MOST_PROMPTS: Final = 2 * PROMPTS
NEW_TOKENS: Final = 16
# Tokens of a text, of most of the random ones, and how many of those may be as long as any.
_LONGEST: Final = 512
_LONGEST_RANDOM: Final = 48
_LONG: Final = 8
# Where configurations say how many experts a layer chooses among; and families whose attention is biased by distance.
_EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_BIASED: Final = ("bloom", "mpt")


def export(source: Path, folder: Path, options: Options, progress: Progress) -> bundle_pb2.Manifest:
    """Fill `folder` and return its manifest; see `architectures.Recipe`.

    Raises:
        ExportError: Any of its kinds but OutputError.
    """
    with one_thread(), quiet():
        return _export(source, folder, options, progress)


def _export(source: Path, folder: Path, options: Options, progress: Progress) -> bundle_pb2.Manifest:
    tolerance = DEFAULT_TOLERANCE if options.tolerance is None else options.tolerance
    options.check_unused("models that generate", "graph")
    progress.stage("load")
    checkpoint = read_checkpoint(source, options)
    texts = _texts(checkpoint, options)
    progress.stage("graphs")
    try:
        form, specs = _written(checkpoint, folder)
    except GraphRejectedError as error:
        raise GraphRejectedError(f"{checkpoint.architecture} models: {_why(checkpoint.model.config)}{error}") from error
    graphs = form.model([Graph(folder / spec.file_name) for spec in specs])

    room = checkpoint.max_tokens - (max(map(len, texts.rows)) if checkpoint.goes_on else 0)
    limit, ends = min(NEW_TOKENS, room), frozenset(checkpoint.ends)
    progress.note(f"comparing greedy decoding with transformers' generate() on {texts.origin}")
    gate = _gate(checkpoint, texts, limit, ends, tolerance, progress)
    progress.stage("parity", len(gate.wanted))
    parity = gate.certify(graphs, tolerance, progress)

    progress.stage("write")
    (folder / TOKENIZER_FILE).write_text(checkpoint.tokenizer_json, encoding="utf-8")
    write_golden(folder / GOLDEN_FILE, gate)
    variants = [bundle_pb2.Variant(name="fp32", graphs=[graph_entry(spec, folder) for spec in specs], parity=parity)]
    if options.int8 is not None:
        smaller = int8.Source(
            folder, specs, form, ends, checkpoint.max_tokens, _path(checkpoint, options), partial(_read, checkpoint)
        )
        variants.append(int8.make_variant(smaller, options.int8, progress))
    return _manifest(
        checkpoint,
        form.shape.proto(),
        variants,
        [file_entry(folder / name) for name in (GOLDEN_FILE, TOKENIZER_FILE)],
        [*checkpoint.remarks, *gate.remarks()],
    )


def _gate(
    checkpoint: Checkpoint, texts: Texts, limit: int, ends: frozenset[int], tolerance: float, progress: Progress
) -> Gate:
    """What PyTorch makes of `PROMPTS` texts, and of as many more as there are among them that it wavers at.

    Raises:
        CorruptCheckpointError: The model does not run.
    """
    wanted: list[Continuation] = []
    clear = 0
    while (missing := PROMPTS - clear) > 0 and (rest := texts.rows[len(wanted) :]):
        if wanted:
            progress.note(f"PyTorch's two likeliest tokens are near to each other in {missing}: as many more are drawn")
        rows = rest[:missing]
        progress.stage("reference", len(rows))
        suppressed = checkpoint.suppressed
        found = continuations(checkpoint.model, rows, limit=limit, ends=ends, suppressed=suppressed, progress=progress)
        clear += sum(each.clear(tolerance) for each in found)
        wanted += found
    count = len(wanted)
    return Gate(Texts(texts.rows[:count], texts.names[:count], texts.origin), wanted, limit, ends)


def _written(checkpoint: Checkpoint, folder: Path) -> tuple[Form, Sequence[GraphSpec]]:
    """Write the graphs; from there on only the written bytes count.

    Raises:
        UnknownArchitectureError: The model attends in its own way.
        GraphError: It cannot be written.
    """
    suppress = Suppress(checkpoint.suppressed, checkpoint.vocab_size)
    attention = cached.ATTENTION if checkpoint.goes_on else parts.ATTENTION
    try:
        model: Any = load_network(checkpoint.folder, checkpoint.head, attention).model
    except CorruptCheckpointError as error:  # with an attention of its own it was loaded
        raise UnknownArchitectureError(
            f"{checkpoint.architecture} models attend in their own way, which knows no cache that is written in place"
        ) from error
    if checkpoint.goes_on:
        shape = cache_shape(model, model.config)
        spec = signature.decoder_only(shape, checkpoint.vocab_size)
        write_graph(graph.DecoderGraph(model, suppress), signature.decoder_only_example(shape), spec, folder)
        return Form(shape, None), [spec]
    shape = cache_shape(model.get_decoder(), model.config)
    specs = signature.encoder_decoder(shape, checkpoint.vocab_size)
    examples = signature.encoder_decoder_examples(shape)
    traced = seq2seq.Seq2Seq(model)
    write_graph(seq2seq.EncoderGraph(traced), examples[0], specs[0], folder)
    write_graph(seq2seq.DecoderGraph(traced, suppress), examples[1], specs[1], folder)
    return Form(shape, checkpoint.start_id), specs


def _why(config: Any) -> str:  # noqa: ANN401 (one of transformers' many classes)
    """What most likely cannot be traced, of what a tracer's own words never name."""
    if any((getattr(config, name, None) or 0) > 1 for name in _EXPERTS):
        return "layers that choose among experts (MoE) are not supported: "
    if config.model_type in _BIASED:
        return "attention that is biased by distance (ALiBi) is not supported: "
    return ""


def _manifest(
    checkpoint: Checkpoint,
    kept: bundle_pb2.KvCache,
    variants: Sequence[bundle_pb2.Variant],
    files: Sequence[bundle_pb2.File],
    remarks: Sequence[str],
) -> bundle_pb2.Manifest:
    most = checkpoint.max_tokens
    # What goes on with a text needs a place for one token more.
    limits = (
        bundle_pb2.Limits(max_source_tokens=most - 1, max_new_tokens=most - 1, max_total_tokens=most)
        if checkpoint.goes_on
        else bundle_pb2.Limits(max_source_tokens=most, max_new_tokens=most)
    )
    first, *more = checkpoint.ends
    return bundle_pb2.Manifest(
        format_version=FORMAT_VERSION,
        task=bundle_pb2.TASK_GENERATE,
        architecture=checkpoint.architecture,
        graph_kind=bundle_pb2.GRAPH_KIND_CACHED,
        limits=limits,
        special_tokens=bundle_pb2.SpecialTokens(
            pad_id=first, bos_id=checkpoint.start_id, eos_id=first, more_eos_ids=more, unk_id=checkpoint.unk_id
        ),
        kv_cache=kept,
        variants=variants,
        files=files,
        tool_versions=tool_versions("transformers", "tokenizers", "safetensors"),
        remarks=remarks,
    )


def _texts(checkpoint: Checkpoint, options: Options) -> Texts:
    """The user's texts or the checkpoint's, filled up to `PROMPTS` with random tokens of mixed length; then spare ones.

    Raises:
        TextsError: They cannot be read.
    """
    path = _path(checkpoint, options)
    lines = [] if path is None else read_lines(path)
    # Beside a text there is room for what is compared.
    room = max(1, checkpoint.max_tokens - NEW_TOKENS) if checkpoint.goes_on else checkpoint.max_tokens
    longest = min(_LONGEST, room)
    encoded = zip(lines, (each.ids for each in checkpoint.tokenizer.encode_batch(lines)), strict=True)
    real = [(repr(line), ids) for line, ids in encoded if 0 < len(ids) <= longest][:PROMPTS]
    generator = np.random.default_rng(0)
    ordinary = np.setdiff1d(np.arange(checkpoint.model.config.vocab_size), checkpoint.ends)
    usual = min(_LONGEST_RANDOM, longest)
    lengths = generator.integers(1, usual + 1, PROMPTS - len(real))
    lengths[-_LONG:] = generator.integers(usual, longest + 1, len(lengths[-_LONG:]))
    random = [generator.choice(ordinary, length).tolist() for length in lengths]
    spare = generator.integers(1, usual + 1, _MOST_PROMPTS - PROMPTS)
    random += [generator.choice(ordinary, length).tolist() for length in spare]
    rows = [*(ids for _, ids in real), *random]
    names = [*(name for name, _ in real), *(f"random text {number}" for number in range(len(random)))]
    origin = " of random tokens" if path is None else f", {len(real)} of them from {path.name}"
    return Texts(rows, names, f"{PROMPTS} texts{origin}")


def _path(checkpoint: Checkpoint, options: Options) -> Path | None:
    """The user's texts, or the checkpoint's."""
    own = checkpoint.folder / SAMPLE_FILE
    return options.words or (own if own.exists() else None)


def _read(checkpoint: Checkpoint, texts: Sequence[str]) -> list[list[int]]:
    """Texts that the model takes; one without an encoder takes the beginning of any."""
    rows = [each.ids for each in checkpoint.tokenizer.encode_batch(list(texts))]
    return [row for row in rows if row and (checkpoint.goes_on or len(row) <= checkpoint.max_tokens)]
