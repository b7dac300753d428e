"""Recipe for encoder checkpoints: one graph, packed where the model allows it, its head inside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, Final

import numpy as np
import torch
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray

from headwaiter_export.architectures import Options
from headwaiter_export.bundle import (
    FORMAT_VERSION,
    GOLDEN_FILE,
    TOKENIZER_FILE,
    file_entry,
    graph_entry,
    tool_versions,
)
from headwaiter_export.encoders.answers import Answer
from headwaiter_export.encoders.checkpoint import Checkpoint, read_checkpoint
from headwaiter_export.encoders.gate import Gate, pool_of
from headwaiter_export.encoders.layout import Layout, Tokens
from headwaiter_export.encoders.lean import lean
from headwaiter_export.encoders.network import load_network, quiet
from headwaiter_export.encoders.packed import ATTENTION, PackedGraph
from headwaiter_export.encoders.padded import PaddedGraph
from headwaiter_export.encoders.samples import Samples, read_samples
from headwaiter_export.encoders.variants import Certified, quantized_variant
from headwaiter_export.errors import CheckpointError, GraphError, ParityError
from headwaiter_export.naming import name_outputs, unnamed
from headwaiter_export.progress import Progress
from headwaiter_export.runtime import Graph
from headwaiter_export.texts import padded
from headwaiter_export.threads import one_thread
from headwaiter_export.tracing import trace, write_model

DEFAULT_TOLERANCE: Final = 1e-5
GOLDEN_TEXTS: Final = 16
_LONGEST_REASON: Final = 200
# Families whose packed graph is known to be right: that it fails is a fault here, not a reason to pad.
PACKED_FAMILIES: Final = frozenset({"bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert", "mpnet"})
_KINDS: Final = {"packed": bundle_pb2.GRAPH_KIND_PACKED, "padded": bundle_pb2.GRAPH_KIND_PADDED}


def export(source: Path, folder: Path, options: Options, progress: Progress) -> bundle_pb2.Manifest:
    """Fill `folder` and return its manifest; see `architectures.Recipe`.

    Raises:
        ExportError: Any of its kinds but OutputError.
    """
    with one_thread(), quiet():
        return _export(source, folder, options, progress)


def _export(source: Path, folder: Path, options: Options, progress: Progress) -> bundle_pb2.Manifest:
    tolerance = DEFAULT_TOLERANCE if options.tolerance is None else options.tolerance
    progress.stage("load")
    checkpoint = read_checkpoint(source, options)
    samples = read_samples(source, checkpoint, options)
    pool, remarks = pool_of(checkpoint)
    golden = samples.tokens[:GOLDEN_TEXTS] or pool[-GOLDEN_TEXTS:]
    progress.stage("reference")
    gate = Gate(checkpoint, [*pool, *golden])
    certified = _write(_Work(checkpoint, samples, gate, folder, tolerance, progress), options.graph)
    progress.note(certified.remark)
    fp32 = bundle_pb2.Variant(
        name="fp32",
        graphs=[graph_entry(certified.spec, folder)],
        parity=bundle_pb2.ParityCertificate(tolerance=tolerance, points=certified.points),
    )
    smaller = quantized_variant(certified, options, progress)

    progress.stage("write")
    (folder / TOKENIZER_FILE).write_text(checkpoint.tokenizer_json, encoding="utf-8")
    write_golden(folder / GOLDEN_FILE, checkpoint, golden, gate.expected[len(pool) :], samples.texts[:GOLDEN_TEXTS])
    answer = checkpoint.answer
    embed = answer.task == bundle_pb2.TASK_EMBED
    return bundle_pb2.Manifest(
        format_version=FORMAT_VERSION,
        task=answer.task,
        architecture=checkpoint.architecture,
        graph_kind=certified.layout.kind,
        limits=bundle_pb2.Limits(max_source_tokens=checkpoint.max_tokens),
        special_tokens=bundle_pb2.SpecialTokens(pad_id=checkpoint.pad_id, unk_id=checkpoint.unk_id),
        variants=[fp32] if smaller is None else [fp32, smaller],
        files=[file_entry(folder / name) for name in (GOLDEN_FILE, TOKENIZER_FILE)],
        tool_versions=tool_versions("transformers", "tokenizers", "safetensors"),
        labels=answer.labels,
        multi_label=answer.multi_label,
        embedding=_embedding(gate, answer) if embed else None,
        remarks=[certified.remark, *checkpoint.remarks, *remarks],
    )


@dataclass(frozen=True)
class _Work:
    """What every attempt at a graph needs."""

    checkpoint: Checkpoint
    samples: Samples
    gate: Gate
    folder: Path
    tolerance: float
    progress: Progress


def _write(work: _Work, wanted: str) -> Certified:
    """Write the graph that was asked for, or the better one that is right."""
    if wanted == "padded":
        return _certified(work, "padded", "as was asked for")
    family = work.checkpoint.architecture
    try:
        why = "as was asked for" if wanted == "packed" else f"{family} models answer the same packed as alone"
        return _certified(work, "packed", why)
    except (CheckpointError, GraphError, ParityError) as error:
        # A CheckpointError: the model loaded before, so it does not take our attention.
        if wanted == "packed" or family in PACKED_FAMILIES:
            raise
        why = f"this {family} model cannot be packed: {shorten(str(error), _LONGEST_REASON)}"
    return _certified(work, "padded", why)


def _certified(work: _Work, kind: str, why: str) -> Certified:
    work.progress.stage(f"{kind} graph")
    checkpoint, answer = work.checkpoint, work.checkpoint.answer
    layout = Layout(_KINDS[kind], checkpoint.reference.reads_token_types, checkpoint.pad_id)
    raw = work.gate.expected[0][0]
    spec = layout.spec(answer.task, answer.outputs, raw.shape[-1] if raw.ndim else 1)
    module = (
        PackedGraph(load_network(checkpoint.folder, answer.head, ATTENTION), answer)
        if kind == "packed"
        else PaddedGraph(load_network(checkpoint.folder, answer.head, "eager"), answer)
    )
    example = layout.feeds([Tokens(list(range(length)), [0] * length) for length in (3, 2, 4)])
    model = trace(module, tuple(torch.from_numpy(example[tensor.name]) for tensor in spec.inputs), unnamed(spec))
    model = lean(model)
    name_outputs(model, answer.outputs)
    write_model(model, spec, work.folder)
    # From here on only the written bytes count.
    path = work.folder / spec.file_name
    points = work.gate.certify(Graph(path), layout, work.tolerance, work.progress)
    return Certified(
        folder=work.folder,
        spec=spec,
        model=path.read_bytes(),
        task=answer.task,
        layout=layout,
        tokenizer=checkpoint.tokenizer,
        max_tokens=checkpoint.max_tokens,
        texts=work.samples.texts,
        points=points,
        remark=f"the graph is {kind}: {why}",
    )


def write_golden(
    path: Path,
    checkpoint: Checkpoint,
    rows: list[Tokens],
    expected: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
    texts: list[str],
) -> None:
    """What PyTorch gives on a few texts, for a server to check itself against.

    Arrays: `input_ids` and, where the model reads them, `token_type_ids`, int64 `(n, longest)`, filled with
    `pad_id` and 0 on the right; `lengths` `(n,)`; `texts` `(n,)`, or none where the tokens are random; and both
    outputs of the graph under their names, a row a text, a tagger's filled with 0 beyond a text's end.
    """
    lengths = np.array([len(row.ids) for row in rows])
    arrays: dict[str, NDArray[Any]] = {
        "input_ids": padded([row.ids for row in rows], checkpoint.pad_id),
        "lengths": lengths,
        "texts": np.array(texts, dtype=np.str_),
    }
    if checkpoint.reference.reads_token_types:
        arrays["token_type_ids"] = padded([row.types for row in rows], 0)
    by_token = checkpoint.answer.task == bundle_pb2.TASK_TAG
    for at, name in enumerate(checkpoint.answer.outputs):
        values = [each[at] for each in expected]
        if by_token:
            values = [np.pad(value, ((0, lengths.max() - len(value)), (0, 0))) for value in values]
        arrays[name] = np.stack(values)
    np.savez(path, allow_pickle=False, **arrays)


def _embedding(gate: Gate, answer: Answer) -> bundle_pb2.Embedding:
    sentence = answer.sentence
    return bundle_pb2.Embedding(
        dimension=len(gate.expected[0][0]),
        normalized=sentence.normalized,
        prompts=sentence.prompts,
        default_prompt=sentence.default_prompt,
    )
