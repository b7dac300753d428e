"""Recipe for `headwaiter-transformer` checkpoints: a packed encoder, and a decoder with its key/value cache."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from headwaiter_proto.v1 import bundle_pb2
from tokenizers import Tokenizer

from headwaiter_export import errors
from headwaiter_export import transformer as tf
from headwaiter_export.architectures import Options
from headwaiter_export.bundle import FORMAT_VERSION, GOLDEN_FILE, TOKENIZER_FILE, file_entry, graph_entry, tool_versions
from headwaiter_export.generation import int8
from headwaiter_export.generation.form import Form
from headwaiter_export.generation.gate import Continuation, Gate
from headwaiter_export.generation.golden import write_golden
from headwaiter_export.generation.signature import CacheShape, encoder_decoder, encoder_decoder_examples
from headwaiter_export.progress import Progress
from headwaiter_export.runtime import Graph
from headwaiter_export.texts import SAMPLE_FILE, Texts, padded, random_texts, read_texts
from headwaiter_export.threads import one_thread
from headwaiter_export.tracing import write_graph
from headwaiter_export.transformer.checkpoint import ARCHITECTURE
from headwaiter_export.transformer_graphs import DecoderGraph, EncoderGraph

DEFAULT_TOLERANCE: Final = 1e-4
# Texts of random tokens beside the real ones, so that sources of every length are tried.
_RANDOM: Final = 100
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

    shape = CacheShape(config.num_decoder_layers, config.num_heads, config.d_k)
    specs = encoder_decoder(shape, config.vocab_size)
    progress.stage("graphs")
    modules = (EncoderGraph(loaded.model), DecoderGraph(loaded.model))
    for module, example, spec in zip(modules, encoder_decoder_examples(shape), specs, strict=True):
        write_graph(module, example, spec, folder)
    # From here on only the written bytes count.
    form = Form(shape, config.bos_id)
    graphs = form.model([Graph(folder / spec.file_name) for spec in specs])

    progress.note(f"comparing greedy decoding on {texts.origin}")
    progress.stage("reference", len(texts.rows))
    wanted = continuations(loaded.model, texts.rows, progress)
    # Token n is made from position n - 1, and there are max_target_length positions.
    ends = frozenset([config.eos_id])
    gate = Gate(texts, list(wanted), config.max_target_length, ends)
    progress.stage("parity", len(texts.rows))
    parity = gate.certify(graphs, tolerance, progress)

    progress.stage("write")
    (folder / TOKENIZER_FILE).write_text(loaded.tokenizer_json, encoding="utf-8")
    write_golden(folder / GOLDEN_FILE, gate)
    variants = [bundle_pb2.Variant(name="fp32", graphs=[graph_entry(spec, folder) for spec in specs], parity=parity)]
    if options.int8 is not None:
        path, read = _path(source, options), partial(_read, loaded)
        smaller = int8.Source(folder, specs, form, ends, config.max_target_length, path, read)
        variants.append(int8.make_variant(smaller, options.int8, progress))
    return bundle_pb2.Manifest(
        format_version=FORMAT_VERSION,
        task=bundle_pb2.TASK_GENERATE,
        architecture=ARCHITECTURE,
        graph_kind=bundle_pb2.GRAPH_KIND_CACHED,
        limits=bundle_pb2.Limits(max_source_tokens=config.max_source_length, max_new_tokens=config.max_target_length),
        special_tokens=bundle_pb2.SpecialTokens(
            pad_id=config.pad_id, bos_id=config.bos_id, eos_id=config.eos_id, unk_id=loaded.unk_id
        ),
        refuse_unknown_tokens=True,
        kv_cache=shape.proto(),
        variants=variants,
        files=[file_entry(folder / name) for name in (GOLDEN_FILE, TOKENIZER_FILE)],
        tool_versions=tool_versions(),
        remarks=gate.remarks(),
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


@torch.inference_mode()
def continuations(model: tf.Transformer, texts: list[list[int]], progress: Progress) -> Iterator[Continuation]:
    """What PyTorch makes of each text, greedily.

    The logits are those of the whole target read at once, as in training: no cache has a part in them.
    """
    config = model.config
    for start in range(0, len(texts), _BATCH):
        rows = texts[start : start + _BATCH]
        source = torch.from_numpy(padded(rows, config.pad_id))
        lengths = torch.tensor([len(row) for row in rows])
        decoded = tf.greedy_decode(model, source, lengths, config.max_target_length)
        ended = decoded == config.eos_id
        counts = torch.where(ended.any(1), ended.int().argmax(1) + 1, decoded.size(1))
        read = torch.cat([torch.full_like(decoded[:, :1], config.bos_id), decoded[:, :-1]], 1)
        logits = model(source, lengths, read, counts).numpy()
        for tokens, count, own in zip(decoded.tolist(), counts.tolist(), logits, strict=True):
            progress.advance()
            yield Continuation(tokens[:count], own[:count])


def _texts(source: Path, loaded: Source, options: Options) -> Texts:
    config = loaded.model.config
    path = _path(source, options)
    special = {config.pad_id, config.bos_id, config.eos_id, *([] if loaded.unk_id is None else [loaded.unk_id])}
    longest = config.max_source_length
    random = random_texts(config.vocab_size, longest, special, count=_RANDOM, lengths=(1, longest))
    if path is not None:
        return read_texts(path, loaded.tokenizer, longest, loaded.unk_id) + random
    return random_texts(config.vocab_size, longest, special) + random


def _path(source: Path, options: Options) -> Path | None:
    """The user's texts, or the checkpoint's."""
    own = source / SAMPLE_FILE
    return options.words or (own if own.exists() else None)


def _read(loaded: Source, texts: Sequence[str]) -> list[list[int]]:
    """Texts that the model takes."""
    rows = [each.ids for each in loaded.tokenizer.encode_batch(list(texts))]
    return [row for row in rows if 0 < len(row) <= loaded.model.config.max_source_length and loaded.unk_id not in row]
