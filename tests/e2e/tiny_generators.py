"""Checkpoints of small random models that generate: one that goes on with a text, and one that answers it.

Their weights are spread so that they do not go in circles, and several tokens end a text, so that lengths vary. The
vocabulary is bytes and pairs of letters: what they generate is full of characters that a token begins and others end.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

# Goes on with the text.
DECODER = "gpt2"
# Reads the text, then answers.
TRANSLATOR = "bart"
# Tokens that a text and what is generated share; with an encoder each may have so many.
LENGTHS = {DECODER: 192, TRANSLATOR: 96}
_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
_ENDS = {DECODER: (2, 27, 82, 154, 196), TRANSLATOR: (2, 41, 97, 150, 201, 263)}
_LETTERS = "etaoinshrd"


def write_checkpoints(folder: Path) -> dict[str, Path]:
    """Write both.

    Returns:
        Their folders by name.
    """
    import torch  # noqa: PLC0415 - only where there is an export side
    import transformers as hf  # noqa: PLC0415 - as above

    vocabulary = _vocabulary()
    ids: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    kinds: dict[str, Any] = {
        DECODER: hf.GPT2LMHeadModel(
            hf.GPT2Config(
                vocab_size=len(vocabulary), n_embd=32, n_layer=2, n_head=4, n_positions=LENGTHS[DECODER], **ids
            )
        ),
        TRANSLATOR: hf.BartForConditionalGeneration(
            hf.BartConfig(
                vocab_size=len(vocabulary),
                d_model=32,
                encoder_layers=1,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                max_position_embeddings=LENGTHS[TRANSLATOR],
                decoder_start_token_id=0,
                forced_eos_token_id=None,
                tie_word_embeddings=False,
                **ids,
            )
        ),
    }
    folders = {}
    for name, model in kinds.items():
        torch.manual_seed(1)
        with torch.no_grad():
            for part, weights in model.named_parameters():
                if weights.ndim > 1:
                    weights.normal_(0.0, _spread(name, part))
        model.eval().generation_config.eos_token_id = list(_ENDS[name])
        folders[name] = folder / name
        model.save_pretrained(folders[name])
        _write_tokenizer(folders[name], vocabulary)
    return folders


def _spread(name: str, part: str) -> float:
    embedding = any(each in part for each in ("embed_", "shared", "wte", "wpe"))
    if name == DECODER:
        return 0.1 if embedding else 0.35
    if embedding:
        return 1.0
    return 0.5 if "encoder_attn" in part else 0.1


def _vocabulary() -> list[str]:
    import tokenizers  # noqa: PLC0415 - only where there is an export side

    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    return [*_SPECIAL, *letters, *map("".join, itertools.product(_LETTERS[:4], _LETTERS))]


def _write_tokenizer(folder: Path, vocabulary: list[str]) -> None:
    import tokenizers  # noqa: PLC0415 - as above

    ids = {token: number for number, token in enumerate(vocabulary)}
    merges = [(token[0], token[1]) for token in vocabulary if len(token) == 2]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(_SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
