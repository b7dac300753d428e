"""Recipe for Hugging Face checkpoints that generate: graphs whose key/value cache is written in place."""

from __future__ import annotations

from collections.abc import Sequence
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
from headwaiter_export.errors import ToleranceExceededError
from headwaiter_export.generation import cached, graph, seq2seq
from headwaiter_export.generation.checkpoint import Checkpoint, read_checkpoint
from headwaiter_export.generation.gate import NEW_TOKENS, PROMPTS, Continuation, compare, continuations, groups
from headwaiter_export.generation.graph import CacheShape, Suppress, cache_shape
from headwaiter_export.generation.runtime import DecoderOnly, EncoderDecoder, Graphs
from headwaiter_export.progress import Progress
from headwaiter_export.runtime import Graph
from headwaiter_export.spec import GraphSpec
from headwaiter_export.texts import SAMPLE_FILE, padded, read_lines
from headwaiter_export.threads import one_thread
from headwaiter_export.tracing import write_graph

DEFAULT_TOLERANCE: Final = 1e-4
GOLDEN_TEXTS: Final = 16
# Tokens of a random text, and of one of the user's.
_LONGEST_RANDOM: Final = 48
_LONGEST_REAL: Final = 512


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
    rows, origin = _texts(checkpoint, options)
    progress.stage("graphs")
    graphs, specs, shape = _written(checkpoint, folder)

    room = checkpoint.max_tokens - (max(map(len, rows)) if checkpoint.goes_on else 0)
    limit, ends = min(NEW_TOKENS, room), frozenset(checkpoint.ends)
    progress.note(f"comparing greedy decoding with transformers' generate() on {len(rows)} {origin}")
    progress.stage("reference", len(rows))
    suppressed = checkpoint.suppressed
    wanted = list(
        continuations(checkpoint.model, rows, limit=limit, ends=ends, suppressed=suppressed, progress=progress)
    )
    progress.stage("parity", len(rows))
    points, ties = [], list[int]()
    for group in groups(rows):
        expected = wanted[group.first : group.first + len(group.texts)]
        point, near = compare(graphs, expected, group, limit=limit, ends=ends, tolerance=tolerance)
        if not point.max_abs_diff <= tolerance:  # a NaN is out of tolerance too
            raise ToleranceExceededError(
                f"PyTorch and onnxruntime differ by {point.max_abs_diff:.3g}, more than the tolerance {tolerance:g}, at"
                f" {group}"
            )
        points.append(point)
        ties += near
        progress.advance(len(group.texts))

    progress.stage("write")
    (folder / TOKENIZER_FILE).write_text(checkpoint.tokenizer_json, encoding="utf-8")
    clear = [at for at in range(len(rows)) if at not in ties][:GOLDEN_TEXTS]
    _write_golden(folder / GOLDEN_FILE, [rows[at] for at in clear], [wanted[at] for at in clear])
    same = len(rows) - len(ties)
    tied = f"in {len(ties)} texts the two likeliest tokens were too near to each other to compare further"
    return _manifest(
        checkpoint,
        bundle_pb2.KvCache(num_layers=shape.num_layers, num_heads=shape.num_heads, head_dim=shape.head_dim),
        bundle_pb2.Variant(
            name="fp32",
            graphs=[graph_entry(spec, folder) for spec in specs],
            parity=bundle_pb2.ParityCertificate(
                tolerance=tolerance, points=points, texts_compared=same, texts_identical=same
            ),
        ),
        [file_entry(folder / name) for name in (GOLDEN_FILE, TOKENIZER_FILE)],
        [*checkpoint.remarks, *([tied] if ties else [])],
    )


def _written(checkpoint: Checkpoint, folder: Path) -> tuple[Graphs, Sequence[GraphSpec], CacheShape]:
    """Write the graphs; from there on only the written bytes count."""
    suppress = Suppress(checkpoint.suppressed, checkpoint.vocab_size)
    attention = cached.ATTENTION if checkpoint.goes_on else seq2seq.ATTENTION
    model: Any = load_network(checkpoint.folder, checkpoint.head, attention).model
    if checkpoint.goes_on:
        shape = cache_shape(model, model.config)
        spec = graph.decoder_spec(shape, checkpoint.vocab_size)
        write_graph(graph.DecoderGraph(model, suppress), graph.example(shape), spec, folder)
        return DecoderOnly(Graph(folder / spec.file_name), shape), [spec], shape
    shape = cache_shape(model.get_decoder(), model.config)
    specs = seq2seq.specs(shape, checkpoint.vocab_size)
    examples = seq2seq.examples(shape)
    parts = seq2seq.Seq2Seq(model)
    write_graph(seq2seq.EncoderGraph(parts), examples[0], specs[0], folder)
    write_graph(seq2seq.DecoderGraph(parts, suppress), examples[1], specs[1], folder)
    encoder, decoder = (Graph(folder / spec.file_name) for spec in specs)
    return EncoderDecoder(encoder, decoder, shape, checkpoint.start_id), specs, shape


def _manifest(
    checkpoint: Checkpoint,
    kept: bundle_pb2.KvCache,
    variant: bundle_pb2.Variant,
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
    first, *more = checkpoint.ends or (0,)
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
        variants=[variant],
        files=files,
        tool_versions=tool_versions("transformers", "tokenizers", "safetensors"),
        remarks=remarks,
    )


def _texts(checkpoint: Checkpoint, options: Options) -> tuple[list[list[int]], str]:
    """The user's texts or the checkpoint's, filled up to `PROMPTS` with random tokens of mixed length.

    Raises:
        TextsError: They cannot be read.
    """
    path = options.words or checkpoint.folder / SAMPLE_FILE
    texts = read_lines(path) if options.words or path.exists() else []
    encoded = [each.ids for each in checkpoint.tokenizer.encode_batch(texts)]
    room = checkpoint.max_tokens - checkpoint.goes_on
    real = [ids for ids in encoded if 0 < len(ids) <= min(_LONGEST_REAL, room)][:PROMPTS]
    generator = np.random.default_rng(0)
    ordinary = np.setdiff1d(np.arange(checkpoint.model.config.vocab_size), checkpoint.ends)
    lengths = generator.integers(1, min(_LONGEST_RANDOM, room) + 1, PROMPTS - len(real))
    rows = [*real, *(generator.choice(ordinary, length).tolist() for length in lengths)]
    return rows, f"texts, {len(real)} of them from {path.name}" if real else "texts of random tokens"


def _write_golden(path: Path, rows: list[list[int]], wanted: list[Continuation]) -> None:
    """What PyTorch gives on a few texts, for a server to check itself against.

    Arrays: `source_ids` `(n, s)` and `tokens` `(n, t)`, int64, both filled with 0 on the right; `source_lengths` and
    `token_counts` `(n,)`; `first_logits` `(n, vocab)`, float32, of the first generated token.
    """
    np.savez(
        path,
        allow_pickle=False,
        source_ids=padded(rows, 0),
        source_lengths=np.array([len(row) for row in rows]),
        tokens=padded([each.tokens for each in wanted], 0),
        token_counts=np.array([len(each.tokens) for each in wanted]),
        first_logits=np.stack([each.logits[0] for each in wanted]),
    )
