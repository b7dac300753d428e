"""An encoder checkpoint, read: what is to be exported, and with which tokenizer and limits."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from headwaiter_proto.v1 import bundle_pb2
from tokenizers import Tokenizer

from headwaiter_export.architectures import Options
from headwaiter_export.bundle import TOKENIZER_FILE
from headwaiter_export.encoders.answers import Answer
from headwaiter_export.encoders.files import read_json, refuse_adapter, refuse_pickle
from headwaiter_export.encoders.lengths import max_length, sentence_files
from headwaiter_export.encoders.network import Network, load_network, read_config
from headwaiter_export.encoders.sentence import Sentence, is_sentence_transformer, read_sentence
from headwaiter_export.errors import CorruptCheckpointError, UnknownArchitectureError
from headwaiter_export.texts import parse_tokenizer

TASKS: Final = {
    "embed": bundle_pb2.TASK_EMBED,
    "classify": bundle_pb2.TASK_CLASSIFY,
    "tag": bundle_pb2.TASK_TAG,
    "rerank": bundle_pb2.TASK_RERANK,
}


@dataclass(frozen=True)
class Checkpoint:
    """Everything about a checkpoint but its weights.

    Attributes:
        folder: The Transformer's folder.
        architecture: As config.json names it: "bert".
        answer: What the graph answers.
        reference: The unmodified model.
        tokenizer_json: For the bundle: the checkpoint's, without its padding and truncation.
        tokenizer: The same, parsed.
        max_tokens: Tokens of the longest text.
        pad_id: Fills rows up to the longest.
        special_ids: Ids that do not stand for text.
        unk_id: Id of the unknown token, if the tokenizer has one.
        remarks: What was decided on the way.
    """

    folder: Path
    architecture: str
    answer: Answer
    reference: Network
    tokenizer_json: str
    tokenizer: Tokenizer
    max_tokens: int
    pad_id: int
    special_ids: frozenset[int] = frozenset()
    unk_id: int | None = None
    remarks: tuple[str, ...] = field(default=())


def read_checkpoint(source: Path, options: Options) -> Checkpoint:
    """Read and check a checkpoint folder.

    Raises:
        CheckpointError: Of the kind that fits.
    """
    sentence = read_sentence(source) if is_sentence_transformer(source) else None
    folder = source if sentence is None else sentence.transformer
    refuse_adapter(folder)
    config = read_config(folder)
    refuse_pickle(folder)
    answer = resolve(options.task, config, sentence)
    if not isinstance(getattr(config, "vocab_size", None), int):
        raise UnknownArchitectureError(f"{folder}: {config.model_type} models do not read texts alone")
    path = _one_of(folder / TOKENIZER_FILE, source / TOKENIZER_FILE)
    stored = read_json(path, dict)
    if not all(isinstance(stored.get(part) or {}, dict) for part in ("model", "truncation", "padding")):
        raise CorruptCheckpointError(f"{path}: model, truncation and padding are not all JSON objects")
    remarks = list(answer.remarks)
    if getattr(config, "auto_map", None):
        remarks.append(f"the folder's own code (auto_map) is never run: the model is transformers' {config.model_type}")
    tokenizer_json, notes = _portable(source, folder, stored)
    remarks += notes
    tokenizer = parse_tokenizer(path, tokenizer_json, config.vocab_size)
    reference = load_network(folder, answer.head, "eager")
    limit = max_length(source, folder, stored, reference.positions, options.max_tokens)
    special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    unk_token = (stored.get("model") or {}).get("unk_token")
    return Checkpoint(
        folder=folder,
        architecture=str(config.model_type),
        answer=answer,
        reference=reference,
        tokenizer_json=tokenizer_json,
        tokenizer=tokenizer,
        max_tokens=limit.tokens,
        pad_id=_pad_id(config, stored),
        special_ids=frozenset(special | {_pad_id(config, stored)}),
        unk_id=None if unk_token is None else tokenizer.token_to_id(unk_token),
        remarks=(*remarks, *limit.remarks),
    )


def resolve(task: str, config: Any, sentence: Sentence | None) -> Answer:  # noqa: ANN401 (transformers' configuration)
    """Decide what the graph answers.

    Args:
        task: As the user said it, or "auto".
        config: The model's configuration.
        sentence: What stands around the Transformer in a sentence-transformers folder.

    Raises:
        UnknownArchitectureError: The checkpoint has no head for the task.
        CorruptCheckpointError: Its labels are not numbered from 0.
    """
    architecture = next(iter(config.architectures or ()), "")
    count = int(config.num_labels)
    own = "embed"
    if sentence is None and architecture.endswith("ForSequenceClassification"):
        own = "rerank" if count == 1 else "classify"
    elif sentence is None and architecture.endswith("ForTokenClassification"):
        own = "tag"
    chosen = own if task == "auto" else task
    if chosen not in TASKS:
        raise UnknownArchitectureError(f"there is no task {task!r} for {config.model_type} models: {', '.join(TASKS)}")
    if config.is_encoder_decoder:
        raise UnknownArchitectureError(
            f"{config.model_type} models have a decoder; there is no way to {chosen} with them"
        )
    if chosen == "embed":
        if sentence is not None:
            return Answer(TASKS[chosen], sentence)
        remark = "the folder says nothing of pooling: vectors are the mean of the token vectors, not normalised"
        return Answer(TASKS[chosen], remarks=(remark,))
    if (chosen == "tag") != (own == "tag") or own == "embed":
        raise UnknownArchitectureError(
            f"there is no head to {chosen} with: the checkpoint is a {architecture or 'bare'} model"
        )
    if chosen == "rerank" and count != 1:
        raise UnknownArchitectureError(f"a model to rerank with has one label, this one has {count}")
    if set(config.id2label) != set(range(count)):
        raise CorruptCheckpointError(f"id2label of config.json does not name labels 0 to {count - 1}")
    labels = tuple(str(config.id2label[index]) for index in range(count))
    return Answer(TASKS[chosen], labels=labels, multi_label=config.problem_type == "multi_label_classification")


def _portable(source: Path, folder: Path, stored: dict[str, Any]) -> tuple[str, list[str]]:
    """The tokenizer for the bundle: what it does to a text, not what it did to the batches of a training."""
    tokenizer = stored | {"truncation": None, "padding": None}
    path = next((each for each in sentence_files(source, folder) if read_json(each, dict).get("do_lower_case")), None)
    if path is None:
        return json.dumps(tokenizer, ensure_ascii=False), []
    own = tokenizer.get("normalizer")
    lower = {"type": "Lowercase"}
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [lower, own]} if own else lower
    return json.dumps(tokenizer, ensure_ascii=False), [f"texts are put into lower case, as {path.name} says"]


def _pad_id(config: Any, stored: dict[str, Any]) -> int:  # noqa: ANN401 (transformers' configuration)
    stated = (config.pad_token_id, (stored.get("padding") or {}).get("pad_id"))
    # Some files say -1 where they mean "none"; any token does, because no other attends to it.
    return next((each for each in stated if isinstance(each, int) and 0 <= each < config.vocab_size), 0)


def _one_of(first: Path, second: Path) -> Path:
    return first if first.exists() or not second.exists() else second
