"""A checkpoint that generates, read: what is to be exported, and what it says of tokens and limits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from headwaiter_export.architectures import GENERATE, Options
from headwaiter_export.bundle import TOKENIZER_FILE
from headwaiter_export.encoders.files import read_json, refuse_adapter, refuse_pickle
from headwaiter_export.encoders.lengths import max_length
from headwaiter_export.encoders.network import load_network, read_config
from headwaiter_export.errors import CorruptCheckpointError, UnknownArchitectureError
from headwaiter_export.texts import parse_tokenizer

# What a generation_config.json may ask for that changes which token is the next, beside sampling.
_ASKED: Final = (
    "forced_bos_token_id",
    "forced_eos_token_id",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "min_length",
    "min_new_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "num_beams",
)


@dataclass(frozen=True)
class Checkpoint:
    """Everything about a checkpoint but its graphs.

    Attributes:
        folder: It.
        head: As `load_network` calls it: "causal" or "seq2seq".
        model: The unmodified model, in eval mode.
        architecture: As config.json names it: "gpt2".
        tokenizer_json: For the bundle: the checkpoint's, without its padding and truncation.
        tokenizer: The same, parsed.
        max_tokens: Most tokens of a source, and of what is generated; of a decoder-only model, of both together.
        start_id: What the decoder begins with; 0 of a decoder-only model, which goes on with the text.
        ends: Tokens that end a text; the first of them is the main one.
        suppressed: Tokens that are never generated.
        unk_id: Id of the unknown token, if the tokenizer has one.
        remarks: What was decided on the way.
    """

    folder: Path
    head: str
    model: Any
    architecture: str
    tokenizer_json: str
    tokenizer: Tokenizer
    max_tokens: int
    start_id: int
    ends: tuple[int, ...]
    suppressed: tuple[int, ...]
    unk_id: int | None
    remarks: tuple[str, ...]

    @property
    def goes_on(self) -> bool:
        """Whether it is a decoder-only model."""
        return self.head == "causal"

    @property
    def vocab_size(self) -> int:
        """Tokens that it may generate."""
        return int(self.model.get_output_embeddings().weight.shape[0])


def read_checkpoint(source: Path, options: Options) -> Checkpoint:
    """Read and check a checkpoint folder.

    Raises:
        CheckpointError: Of the kind that fits.
    """
    refuse_adapter(source)
    config = read_config(source)
    refuse_pickle(source)
    if options.task not in ("auto", "generate"):
        raise UnknownArchitectureError(f"{config.model_type} models that generate have no head to {options.task} with")
    architecture = str(next(iter(config.architectures or ()), ""))
    if not architecture.endswith(GENERATE):
        raise UnknownArchitectureError(
            f"{source}: there is no task 'generate' for a {architecture or 'bare'} model: it has no head for it"
        )
    path = source / TOKENIZER_FILE
    stored = read_json(path, dict) | {"truncation": None, "padding": None}
    tokenizer_json = json.dumps(stored, ensure_ascii=False)
    tokenizer = parse_tokenizer(path, tokenizer_json, config.vocab_size)
    head = "seq2seq" if config.is_encoder_decoder else "causal"
    network = load_network(source, head, "eager")
    model: Any = network.model
    positions = getattr(config, "n_positions", None) or network.positions
    limit = max_length(source, source, stored, positions, options.max_tokens)
    if limit.tokens < 2:  # noqa: PLR2004 - one to read, one to generate
        raise UnknownArchitectureError(f"{source}: {limit.tokens} positions leave no room to generate in")
    asked = model.generation_config
    ends = _within(asked.eos_token_id, config.vocab_size)
    if not ends:
        raise CorruptCheckpointError(
            f"{source}: no file says which token ends a text: put its eos_token_id into generation_config.json"
        )
    _refuse_long_rotations(config, limit.tokens)
    start = asked.decoder_start_token_id if asked.decoder_start_token_id is not None else asked.bos_token_id
    if head == "seq2seq" and not isinstance(start, int):
        raise CorruptCheckpointError(f"{source}: no file says which token generation begins with")
    unk_token = (stored.get("model") or {}).get("unk_token")
    return Checkpoint(
        folder=source,
        head=head,
        model=model,
        architecture=str(config.model_type),
        tokenizer_json=tokenizer_json,
        tokenizer=tokenizer,
        max_tokens=limit.tokens,
        start_id=start if head == "seq2seq" else 0,
        ends=ends,
        suppressed=_suppressed(asked, config.vocab_size),
        unk_id=None if unk_token is None else tokenizer.token_to_id(unk_token),
        remarks=(*_remarks(config, asked), *limit.remarks),
    )


def _within(stated: Any, vocab_size: int) -> tuple[int, ...]:  # noqa: ANN401 (a number, a list or nothing)
    ids = stated if isinstance(stated, list) else [] if stated is None else [stated]
    return tuple(dict.fromkeys(int(each) for each in ids if 0 <= int(each) < vocab_size))


def _suppressed(asked: Any, vocab_size: int) -> tuple[int, ...]:  # noqa: ANN401 (transformers' settings)
    words = [word[0] for word in asked.bad_words_ids or [] if len(word) == 1]
    return _within([*(asked.suppress_tokens or []), *words], vocab_size)


def _refuse_long_rotations(config: Any, tokens: int) -> None:  # noqa: ANN401 (transformers' settings)
    """Refuse rotary frequencies that are others as soon as any text of a run is long.

    Raises:
        UnknownArchitectureError: So are the model's, and its texts may be that long.
    """
    stated = getattr(config, "rope_parameters", None) or {}
    for rotary in (stated, *(each for each in stated.values() if isinstance(each, dict))):
        most = int(rotary.get("original_max_position_embeddings") or tokens)
        if rotary.get("rope_type") == "longrope" and tokens > most:
            raise UnknownArchitectureError(
                f"{config.model_type}: beyond {most} tokens what is in the cache would have to be computed anew"
                f" (longrope); --max-tokens {most} exports it without"
            )


def _remarks(config: Any, asked: Any) -> list[str]:  # noqa: ANN401 (transformers' settings)
    remarks = []
    if getattr(config, "auto_map", None):
        remarks.append(f"the folder's own code (auto_map) is never run: the model is transformers' {config.model_type}")
    usual = type(asked)()
    more = [name for name in _ASKED if getattr(asked, name, None) not in (None, getattr(usual, name, None))]
    more += ["bad_words_ids of several tokens"] if any(len(word) > 1 for word in asked.bad_words_ids or []) else []
    if more:
        remarks.append(f"left to the caller, though the checkpoint asks for it: {', '.join(more)}")
    return remarks
