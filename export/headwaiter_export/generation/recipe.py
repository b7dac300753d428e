"""Recipe for decoder-only checkpoints of Hugging Face: one graph, with a key/value cache that it writes in place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from headwaiter_proto.v1 import bundle_pb2
from tokenizers import Tokenizer

from headwaiter_export.architectures import Options
from headwaiter_export.bundle import (
    FORMAT_VERSION,
    GOLDEN_FILE,
    TOKENIZER_FILE,
    file_entry,
    graph_entry,
    tool_versions,
)
from headwaiter_export.encoders.files import read_json, refuse_adapter, refuse_pickle
from headwaiter_export.encoders.lengths import max_length
from headwaiter_export.encoders.network import load_network, quiet, read_config
from headwaiter_export.errors import CorruptCheckpointError, ToleranceExceededError, UnknownArchitectureError
from headwaiter_export.generation.cached import ATTENTION
from headwaiter_export.generation.gate import NEW_TOKENS, PROMPTS, Continuation, compare, continuations, groups
from headwaiter_export.generation.graph import DecoderGraph, cache_shape, decoder_spec, example
from headwaiter_export.progress import Progress
from headwaiter_export.runtime import Graph
from headwaiter_export.spec import GraphSpec
from headwaiter_export.texts import SAMPLE_FILE, padded, read_lines
from headwaiter_export.threads import one_thread
from headwaiter_export.tracing import trace, write_model

DEFAULT_TOLERANCE: Final = 1e-4
GOLDEN_TEXTS: Final = 16
_SHORTEST, _LONGEST = 1, 48
_TOO_LONG_FOR_A_PROMPT: Final = 512


@dataclass(frozen=True)
class Source:
    """A checkpoint, read.

    Attributes:
        model: The unmodified model, in eval mode.
        architecture: As config.json names it: "gpt2".
        tokenizer_json: For the bundle: the checkpoint's, without its padding and truncation.
        tokenizer: The same, parsed.
        max_tokens: Most tokens of a text and what is generated from it, together.
        ends: Tokens that end a text, ascending; the first of them is the main one.
        pad_id: What `generate` fills rows with; stands for nothing here.
        unk_id: Id of the unknown token, if the tokenizer has one.
        remarks: What was decided on the way.
    """

    model: Any
    architecture: str
    tokenizer_json: str
    tokenizer: Tokenizer
    max_tokens: int
    ends: tuple[int, ...]
    pad_id: int
    unk_id: int | None
    remarks: tuple[str, ...]


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
    checkpoint = read_source(source, options)
    rows, names = prompts(source, checkpoint, options)
    progress.stage("decoder graph")
    model = load_network(source, "causal", ATTENTION).model
    shape = cache_shape(model)
    spec = decoder_spec(shape, int(checkpoint.model.config.vocab_size))
    write_model(trace(DecoderGraph(model), example(shape), spec), spec, folder)
    # From here on only the written bytes count.
    graph = Graph(folder / spec.file_name)
    del model

    limit = min(NEW_TOKENS, checkpoint.max_tokens - max(map(len, rows)))
    ends = frozenset(checkpoint.ends)
    progress.note(f"comparing greedy decoding with transformers' generate() on {len(rows)} {names}")
    progress.stage("reference", len(rows))
    wanted = list(
        continuations(checkpoint.model, rows, limit=limit, ends=ends, pad_id=checkpoint.pad_id, progress=progress)
    )
    progress.stage("parity", len(rows))
    points, ties = [], list[int]()
    for group in groups(rows):
        expected = wanted[group.first : group.first + len(group.texts)]
        point, near = compare(graph, shape, expected, group, limit=limit, ends=ends, tolerance=tolerance)
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
    _write_golden(folder / GOLDEN_FILE, [rows[at] for at in clear], [wanted[at] for at in clear], checkpoint.pad_id)
    tied = f"in {len(ties)} texts the two likeliest tokens were too near to each other to compare further"
    return _manifest(
        checkpoint,
        spec,
        folder,
        bundle_pb2.KvCache(num_layers=shape.num_layers, num_heads=shape.num_heads, head_dim=shape.head_dim),
        bundle_pb2.ParityCertificate(
            tolerance=tolerance,
            points=points,
            texts_compared=len(rows) - len(ties),
            texts_identical=len(rows) - len(ties),
        ),
        [*checkpoint.remarks, *([tied] if ties else [])],
    )


def _manifest(
    checkpoint: Source,
    spec: GraphSpec,
    folder: Path,
    kept: bundle_pb2.KvCache,
    parity: bundle_pb2.ParityCertificate,
    remarks: Sequence[str],
) -> bundle_pb2.Manifest:
    most = checkpoint.max_tokens
    first, *more = checkpoint.ends or (0,)
    return bundle_pb2.Manifest(
        format_version=FORMAT_VERSION,
        task=bundle_pb2.TASK_GENERATE,
        architecture=checkpoint.architecture,
        graph_kind=bundle_pb2.GRAPH_KIND_CACHED,
        limits=bundle_pb2.Limits(max_source_tokens=most - 1, max_new_tokens=most - 1, max_total_tokens=most),
        special_tokens=bundle_pb2.SpecialTokens(
            pad_id=checkpoint.pad_id, eos_id=first, more_eos_ids=more, unk_id=checkpoint.unk_id
        ),
        kv_cache=kept,
        variants=[bundle_pb2.Variant(name="fp32", graphs=[graph_entry(spec, folder)], parity=parity)],
        files=[file_entry(folder / name) for name in (GOLDEN_FILE, TOKENIZER_FILE)],
        tool_versions=tool_versions("transformers", "tokenizers", "safetensors"),
        remarks=remarks,
    )


def read_source(source: Path, options: Options) -> Source:
    """Read and check a checkpoint folder.

    Raises:
        CheckpointError: Of the kind that fits.
    """
    refuse_adapter(source)
    config = read_config(source)
    refuse_pickle(source)
    if options.task not in ("auto", "generate"):
        raise UnknownArchitectureError(f"{config.model_type} models that generate have no head to {options.task} with")
    if getattr(config, "is_encoder_decoder", False):
        raise UnknownArchitectureError(f"{config.model_type} models have an encoder, which is not exported yet")
    path = source / TOKENIZER_FILE
    stored = read_json(path, dict) | {"truncation": None, "padding": None}
    tokenizer_json = json.dumps(stored, ensure_ascii=False)
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # tokenizers raises bare Exception
        raise CorruptCheckpointError(f"{path}: {error}") from error
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= config.vocab_size:
        raise CorruptCheckpointError(
            f"{path}: token ids go up to {highest}, but config.json has vocab_size {config.vocab_size}"
        )
    network = load_network(source, "causal", "eager")
    limit = max_length(source, source, stored, network.positions, options.max_tokens)
    if limit.tokens < _SHORTEST + 1:
        raise UnknownArchitectureError(f"{source}: {limit.tokens} positions leave no room to generate in")
    ends = _ends(network.model, config.vocab_size)
    notes = [] if ends else ["no token ends a text: generation goes on to its limit"]
    if getattr(config, "auto_map", None):
        notes.append(f"the folder's own code (auto_map) is never run: the model is transformers' {config.model_type}")
    unk_token = (stored.get("model") or {}).get("unk_token")
    return Source(
        model=network.model,
        architecture=str(config.model_type),
        tokenizer_json=tokenizer_json,
        tokenizer=tokenizer,
        max_tokens=limit.tokens,
        ends=ends,
        pad_id=ends[0] if ends else 0,
        unk_id=None if unk_token is None else tokenizer.token_to_id(unk_token),
        remarks=(*notes, *limit.remarks),
    )


def prompts(source: Path, checkpoint: Source, options: Options) -> tuple[list[list[int]], str]:
    """Texts to continue: the user's or the checkpoint's, filled up to `PROMPTS` with random tokens of mixed length."""
    longest = min(_LONGEST, checkpoint.max_tokens - 1)
    path = options.words or source / SAMPLE_FILE
    texts = read_lines(path) if options.words or path.exists() else []
    encoded = [each.ids for each in checkpoint.tokenizer.encode_batch(texts)]
    room = min(_TOO_LONG_FOR_A_PROMPT, checkpoint.max_tokens - 1)
    real = [ids for ids in encoded if 0 < len(ids) <= room][:PROMPTS]
    generator = np.random.default_rng(0)
    ordinary = np.setdiff1d(np.arange(checkpoint.model.config.vocab_size), checkpoint.ends)
    lengths = generator.integers(_SHORTEST, longest + 1, PROMPTS - len(real))
    rows = [*real, *(generator.choice(ordinary, length).tolist() for length in lengths)]
    return rows, f"texts, {len(real)} of them from {path.name}" if real else "texts of random tokens"


def _ends(model: Any, vocab_size: int) -> tuple[int, ...]:  # noqa: ANN401 (one of transformers' many classes)
    """Tokens that end a text, by the settings that `generate` goes by."""
    stated = model.generation_config.eos_token_id
    ids = stated if isinstance(stated, list) else [] if stated is None else [stated]
    return tuple(dict.fromkeys(int(each) for each in ids if 0 <= int(each) < vocab_size))


def _write_golden(path: Path, rows: list[list[int]], wanted: list[Continuation], pad_id: int) -> None:
    """What PyTorch gives on a few texts, for a server to check itself against.

    Arrays: `source_ids` `(n, s)` and `tokens` `(n, t)`, int64, both filled with `pad_id` on the right;
    `source_lengths` and `token_counts` `(n,)`; `first_logits` `(n, vocab)`, float32, of the first generated token.
    """
    np.savez(
        path,
        allow_pickle=False,
        source_ids=padded(rows, pad_id),
        source_lengths=np.array([len(row) for row in rows]),
        tokens=padded([each.tokens for each in wanted], pad_id),
        token_counts=np.array([len(each.tokens) for each in wanted]),
        first_logits=np.stack([each.logits[0] for each in wanted]),
    )
