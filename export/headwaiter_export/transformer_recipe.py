"""Recipe for `headwaiter-transformer` checkpoints: a packed encoder, a decoder step, a key/value cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray
from tokenizers import Tokenizer

from headwaiter_export import errors
from headwaiter_export import transformer as tf
from headwaiter_export.architectures import Options
from headwaiter_export.bundle import FORMAT_VERSION, GOLDEN_FILE, TOKENIZER_FILE, file_entry, graph_entry, tool_versions
from headwaiter_export.parity import certify, compare, grid
from headwaiter_export.progress import Progress
from headwaiter_export.runtime import Decoder, Graph
from headwaiter_export.spec import GraphSpec
from headwaiter_export.texts import SAMPLE_FILE, Texts, random_texts, read_texts
from headwaiter_export.threads import one_thread
from headwaiter_export.tracing import write_graph
from headwaiter_export.transformer.checkpoint import ARCHITECTURE
from headwaiter_export.transformer_graphs import DecoderStepGraph, EncoderGraph, decoder_step_spec, encoder_spec

GOLDEN_TEXTS: Final = 16
DEFAULT_TOLERANCE: Final = 1e-4
_BATCH: Final = 32


@dataclass(frozen=True)
class Source:
    """A loaded checkpoint and what its tokenizer says.

    Attributes:
        model: In eval mode.
        tokenizer_json: As it was stored.
        tokenizer: The same, parsed.
        unk_id: Id of the unknown token, if the tokenizer has one.
    """

    model: tf.Transformer
    tokenizer_json: str
    tokenizer: Tokenizer
    unk_id: int | None


def export(source: Path, folder: Path, options: Options, progress: Progress) -> bundle_pb2.Manifest:
    """Fill `folder` and return its manifest; see `architectures.Recipe`.

    Raises:
        ExportError: Any of its kinds but OutputError.
    """
    with one_thread():
        return _export(source, folder, options, progress)


def _export(source: Path, folder: Path, options: Options, progress: Progress) -> bundle_pb2.Manifest:
    tolerance = DEFAULT_TOLERANCE if options.tolerance is None else options.tolerance
    if options.task not in ("auto", "generate"):
        raise errors.UnknownArchitectureError(f"{ARCHITECTURE} models generate; there is no task {options.task!r}")
    options.check_unused(f"{ARCHITECTURE} models", "graph", "max_tokens")
    progress.stage("load")
    loaded = load(source)
    config = loaded.model.config
    texts = _texts(source, loaded, options)

    specs = (encoder_spec(config), decoder_step_spec(config))
    progress.stage("encoder graph")
    write_graph(EncoderGraph(loaded.model), example(specs[0]), specs[0], folder)
    progress.stage("decoder-step graph")
    write_graph(DecoderStepGraph(loaded.model), example(specs[1]), specs[1], folder)
    # From here on only the written bytes count.
    encoder, decoder_step = (Graph(folder / spec.file_name) for spec in specs)

    shapes = grid(config.max_source_length)
    progress.stage("parity", len(shapes))
    points = []
    for point in certify(shapes, tolerance, partial(compare, loaded.model, encoder, decoder_step)):
        points.append(point)
        progress.advance()
    progress.note(f"comparing greedy decoding on {len(texts.rows)} {texts.origin}")
    progress.stage("words", len(texts.rows))
    ids = {"bos_id": config.bos_id, "eos_id": config.eos_id, "pad_id": config.pad_id}
    compare_tokens(loaded.model, Decoder(encoder, decoder_step, **ids), texts, progress)

    progress.stage("write")
    (folder / TOKENIZER_FILE).write_text(loaded.tokenizer_json, encoding="utf-8")
    write_golden(folder / GOLDEN_FILE, loaded.model, texts)
    return bundle_pb2.Manifest(
        format_version=FORMAT_VERSION,
        task=bundle_pb2.TASK_GENERATE,
        architecture=ARCHITECTURE,
        graph_kind=bundle_pb2.GRAPH_KIND_PACKED,
        # Token n is made from position n - 1, and there are max_target_length positions.
        limits=bundle_pb2.Limits(max_source_tokens=config.max_source_length, max_new_tokens=config.max_target_length),
        special_tokens=bundle_pb2.SpecialTokens(
            pad_id=config.pad_id, bos_id=config.bos_id, eos_id=config.eos_id, unk_id=loaded.unk_id
        ),
        refuse_unknown_tokens=True,
        kv_cache=bundle_pb2.KvCache(
            num_layers=config.num_decoder_layers, num_heads=config.num_heads, head_dim=config.d_k
        ),
        variants=[
            bundle_pb2.Variant(
                name="fp32",
                graphs=[graph_entry(spec, folder) for spec in specs],
                parity=bundle_pb2.ParityCertificate(
                    tolerance=tolerance,
                    points=points,
                    texts_compared=len(texts.rows),
                    texts_identical=len(texts.rows),
                ),
            )
        ],
        files=[file_entry(folder / name) for name in (GOLDEN_FILE, TOKENIZER_FILE)],
        tool_versions=tool_versions(),
    )


def load(source: Path) -> Source:
    """Load and check a checkpoint folder.

    Raises:
        CheckpointError: Of the kind that fits.
    """
    try:
        checkpoint = tf.load_checkpoint(source)
    except tf.MissingFileError as error:
        raise errors.MissingCheckpointError(str(error)) from error
    except tf.UnknownArchitectureError as error:
        raise errors.UnknownArchitectureError(str(error)) from error
    except (tf.CheckpointError, UnicodeDecodeError) as error:
        raise errors.CorruptCheckpointError(str(error)) from error
    path = source / TOKENIZER_FILE
    try:
        tokenizer = Tokenizer.from_str(checkpoint.tokenizer_json)
    except Exception as error:  # tokenizers raises bare Exception
        raise errors.CorruptCheckpointError(f"{path}: {error}") from error
    size, vocab_size = tokenizer.get_vocab_size(), checkpoint.model.config.vocab_size
    if size > vocab_size:
        raise errors.CorruptCheckpointError(f"{path}: {size} tokens, but config.json has vocab_size {vocab_size}")
    unk_token = json.loads(checkpoint.tokenizer_json).get("model", {}).get("unk_token")
    unk_id = None if unk_token is None else tokenizer.token_to_id(unk_token)
    return Source(checkpoint.model, checkpoint.tokenizer_json, tokenizer, unk_id)


def example(spec: GraphSpec) -> tuple[Any, ...]:
    """Arguments to trace with; after the leading integers, the tensors of a layer stand together."""
    sizes = {"batch": 3, "source": 4, "capacity": 5, "tokens": 6}
    flat = [torch.ones(t.sizes(sizes), dtype=getattr(torch, t.dtype)) for t in spec.inputs]
    integers = tuple(tensor for tensor in flat if tensor.dtype == torch.int64)
    rest = flat[len(integers) :]
    per_layer = [tuple(rest[at : at + 4]) for at in range(0, len(rest), 4)]
    return (*integers, per_layer) if per_layer else integers


def compare_tokens(model: tf.Transformer, decoder: Decoder, texts: Texts, progress: Progress) -> None:
    """Decode every text on both sides.

    Raises:
        TokensDifferError: Naming the first text whose tokens differ.
    """
    for start in range(0, len(texts.rows), _BATCH):
        source, lengths, expected = _decoded(model, texts, start, _BATCH)
        found = decoder.decode(source, lengths, model.config.max_target_length)
        for row, name in enumerate(texts.names[start : start + _BATCH]):
            if found.shape != expected.shape or not np.array_equal(found[row], expected[row]):
                raise errors.TokensDifferError(
                    f"greedy decoding of {name} gives {found[row].tolist()} on onnxruntime,"
                    f" {expected[row].tolist()} on PyTorch"
                )
        progress.advance(len(lengths))


def write_golden(path: Path, model: tf.Transformer, texts: Texts) -> None:
    """What PyTorch gives on a few texts, for a server to check itself against.

    Arrays: `source_ids` `(n, s)` and `tokens` `(n, t)`, int64, both filled with `pad_id` on the right;
    `source_lengths` `(n,)`; `first_logits` `(n, vocab)`, float32, of the first generated token; `pad_id`.
    """
    source, lengths, tokens = _decoded(model, texts, 0, GOLDEN_TEXTS)
    config = model.config
    ids, torch_lengths = torch.from_numpy(source), torch.from_numpy(lengths)
    with torch.inference_mode():
        memory = model.encode(ids, tf.padding_mask(torch_lengths, ids.size(1)))
        empty = ids.new_zeros((len(ids), config.num_heads, 0, config.d_k), dtype=torch.float32)
        past = [tf.KeyValue(empty, empty)] * config.num_decoder_layers
        bos = torch.full_like(torch_lengths, config.bos_id)
        first = tf.step(model, bos, torch.zeros_like(bos), past, tf.cross_keys_values(model, memory), torch_lengths)
    arrays: dict[str, NDArray[Any]] = {
        "source_ids": source,
        "source_lengths": lengths,
        "tokens": tokens,
        "first_logits": first.logits.numpy(),
        "pad_id": np.array(config.pad_id),
    }
    np.savez(path, allow_pickle=False, **arrays)


def _texts(source: Path, loaded: Source, options: Options) -> Texts:
    config = loaded.model.config
    path = options.words or source / SAMPLE_FILE
    if options.words or path.exists():
        return read_texts(path, loaded.tokenizer, config.max_source_length, loaded.unk_id)
    special = {config.pad_id, config.bos_id, config.eos_id, *([] if loaded.unk_id is None else [loaded.unk_id])}
    return random_texts(config.vocab_size, config.max_source_length, special)


def _decoded(
    model: tf.Transformer, texts: Texts, start: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Some texts, their lengths, and what PyTorch makes of them."""
    source, lengths = texts.batch(start, size, model.config.pad_id)
    limit = model.config.max_target_length
    tokens = tf.greedy_decode(model, torch.from_numpy(source), torch.from_numpy(lengths), limit)
    return source, lengths, tokens.numpy()
