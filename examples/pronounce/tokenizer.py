"""One tokenizer for both sides: characters in, phonemes out.

Letters are lower case and phonemes upper case, so one joint vocabulary holds both and no entry means two
things.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel

if TYPE_CHECKING:
    from collections.abc import Sequence

PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
SPECIAL_TOKENS = (PAD, BOS, EOS, UNKNOWN)
PAD_ID, BOS_ID, EOS_ID, UNKNOWN_ID = range(len(SPECIAL_TOKENS))


def build_tokenizer(letters: Sequence[str], phonemes: Sequence[str]) -> Tokenizer:
    """Build the tokenizer: special tokens, then letters, then phonemes.

    Encoding a word gives one id per character and `</s>`; decoding ids gives the phonemes joined by spaces.
    Accents are dropped and case is folded, so "Café" is read as "cafe"; a character that the dictionary does
    not have is `<unk>`.

    Raises:
        ValueError: A symbol occurs twice.
    """
    symbols = (*SPECIAL_TOKENS, *letters, *phonemes)
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    if len(vocabulary) < len(symbols):
        raise ValueError("letters and phonemes must not repeat or collide")
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B:1 {EOS}:1", special_tokens=[(EOS, EOS_ID)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer
