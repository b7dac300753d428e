"""Makes the decoder that is measured: `python -m benchmarks.generation.checkpoint FOLDER`.

A GPT-2 of 14 million random parameters, the same ones every time. What it writes means nothing; what a step costs does
not depend on that. It never ends a text by itself, so that every candidate writes exactly as many tokens as it is told.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.generation.workloads import POSITIONS, SPECIAL_WORDS, words

_SEED = 20_17
# Wide enough that the likeliest token leads by more than the last bits of a sum: candidates add in different orders.
_INITIALIZER_RANGE = 0.08


def make_model() -> Any:  # noqa: ANN401 - transformers' models are typed in part
    """The model."""
    torch.manual_seed(_SEED)
    beginning, end = range(len(SPECIAL_WORDS))
    config = GPT2Config(
        vocab_size=len(words()), n_positions=POSITIONS, n_embd=384, n_layer=6, n_head=6,
        bos_token_id=beginning, eos_token_id=end, initializer_range=_INITIALIZER_RANGE,
    )  # fmt: skip
    model: Any = GPT2LMHeadModel(config)
    with torch.no_grad():
        # The output layer shares these weights: logits of 0, below the largest of thousands that are spread around 0.
        model.transformer.wte.weight[: len(SPECIAL_WORDS)] = 0
    return model


def make_tokenizer() -> Any:  # noqa: ANN401 - likewise
    """A word, a token: a prompt of n words is one of n tokens."""
    tokenizer = Tokenizer(WordLevel({each: index for index, each in enumerate(words())}, unk_token=SPECIAL_WORDS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    beginning, end = SPECIAL_WORDS
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=tokenizer, unk_token=beginning, bos_token=beginning, eos_token=end, pad_token=end)


def main() -> None:
    """Write model and tokenizer as transformers does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    make_model().save_pretrained(options.folder)
    make_tokenizer().save_pretrained(options.folder)


if __name__ == "__main__":
    main()
