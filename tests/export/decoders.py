"""Small random models that generate, of many families, that do not go in circles."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

VOCAB: Final = 300
ENDS: Final = (2, 11, 23, 57, 60, 81, 120, 147, 176, 203, 222, 250, 271)
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 80,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TRANSLATORS = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 80,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": False,
}
T5 = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "n_positions": 80,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": False,
}
# A second layer takes its time to trace. Those have one that show which layer has which part of the cache, or whose
# layers are not all alike.
ONE: dict[str, Any] = {"num_hidden_layers": 1}
ONE_EACH: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 1}
# gpt_neox and pegasus stand for those that nobody thought of.
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "gpt_neox": SMALL | ONE,
    "llama": SMALL | {"num_key_value_heads": 2},
    "mistral": SMALL | {"num_key_value_heads": 2, "sliding_window": 6},
    "qwen2": SMALL | ONE | {"num_key_value_heads": 1},
    "qwen3": SMALL | ONE | {"num_key_value_heads": 2, "head_dim": 16},
    "t5": T5,
    "mt5": T5 | {"feed_forward_proj": "gated-gelu", "num_layers": 1, "num_decoder_layers": 1},
    "bart": TRANSLATORS,
    "marian": TRANSLATORS | ONE_EACH,
    "pegasus": TRANSLATORS | ONE_EACH,
    "gemma2": SMALL | {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 6},
}

# Tokens that a model's files forbid.
NEVER = {"marian": range(100, 130)}

WITH_ENCODER = frozenset({"t5", "mt5", "bart", "marian", "pegasus"})

# Spreads of random weights with which models do not go in circles: embeddings, attention to the source, all others.
SPREADS = {"t5": (0.3, 0.4, 0.3), "mt5": (0.3, 0.3, 0.3), "bart": (0.1, 1.0, 0.2)}
SPREADS |= {"marian": (1.0, 1.0, 0.1), "pegasus": (1.0, 1.5, 0.1)}


def _spread(family: str, name: str) -> float:
    embeddings, to_source, others = SPREADS.get(family, (0.1, 0.35, 0.35))
    if any(part in name for part in ("embed_", "wte", "shared")):
        return embeddings
    return to_source if "encoder_attn" in name or "EncDecAttention" in name else others


def save_decoder(folder: Path, family: str, ends: tuple[int, ...] = ENDS) -> Path:
    """A checkpoint folder of a small random model that does not repeat itself."""
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(family, **FAMILIES[family])
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model: Any = kind.from_config(config).eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1:
                weights.normal_(0.0, _spread(family, name))
    model.generation_config.eos_token_id = list(ends) or None
    model.generation_config.bad_words_ids = [[word] for word in NEVER.get(family, ())] or None
    model.save_pretrained(folder)
    words = {f"w{number}": number for number in range(VOCAB)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w3"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
