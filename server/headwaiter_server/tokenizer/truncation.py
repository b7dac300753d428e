"""Where a text that is too long is cut: exactly where Hugging Face's truncation cuts it.

The tokenizer itself stays without truncation, because one that cuts for one caller cuts for all. So a text is encoded
whole, and the tokens are taken out afterwards; or, where it is very long, as much of it as decides its first tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers

# Lengths of the beginning that is tried, in characters per token: ordinary texts have 4 or 5, and the last is beyond
# any vocabulary's entries; only runs of white space come near.
_CHARACTERS_PER_TOKEN = (8, 32, 128)
MOST_CHARACTERS_PER_TOKEN = _CHARACTERS_PER_TOKEN[-1]
# At the end of a beginning, the words that may be read otherwise when more text follows: the one that was cut, and the
# one before it, which what follows may have belonged to.
_UNSETTLED_WORDS = 2


def deciding_beginning(tokenizer: tokenizers.Tokenizer, text: str, max_tokens: int) -> str | None:
    """The beginning of a long text, if the text's first tokens are certain to be those of its beginning.

    Tokenizers work word by word: all words but the last ones are read alike, whatever follows them. A tokenizer that
    takes the whole text for one word therefore never gives a beginning.

    Args:
        tokenizer: Without truncation.
        text: The text.
        max_tokens: How many tokens must be certain.

    Returns:
        A beginning that has more than `max_tokens` tokens, the first `max_tokens` of them as in the whole text; None if
        there is none that is much shorter than the text or within the bound on characters.
    """
    for characters in (max_tokens * each for each in _CHARACTERS_PER_TOKEN):
        if characters >= len(text):
            break
        beginning = text[:characters]
        words = [word for word in tokenizer.encode(beginning, add_special_tokens=False).word_ids if word is not None]
        settled = sum(word <= words[-1] - _UNSETTLED_WORDS for word in words) if words else 0
        if settled >= max_tokens:
            return beginning
    return None


def positions_kept(sequences: Sequence[int | None], max_tokens: int, *, keep_first: bool) -> list[int] | None:
    """Which tokens of a text, or of a pair, stay when it is cut at the end.

    Args:
        sequences: For each token the text it belongs to, 0 or 1; None for the special tokens, which all stay.
        max_tokens: Tokens that may stay.
        keep_first: Of a pair, whether only the second text is cut; otherwise the longer one is, down to the length of
            the other, and then both.

    Returns:
        Their positions; None if the text that is to be cut would lose everything.
    """
    first = [position for position, sequence in enumerate(sequences) if sequence == 0]
    second = [position for position, sequence in enumerate(sequences) if sequence == 1]
    room = max_tokens - (len(sequences) - len(first) - len(second))
    if not second:
        sizes = (room, 0)
    elif keep_first:
        sizes = (len(first), room - len(first))
    else:
        sizes = _longest_first(len(first), len(second), room)
    if min(sizes) < 0 or (second and not sizes[1]) or not sizes[0]:
        return None
    dropped = {*first[sizes[0] :], *second[sizes[1] :]}
    return [position for position in range(len(sequences)) if position not in dropped]


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Tokens that stay of each text of a pair; as the tokenizers library decides it, the odd token included."""
    shorter, longer = sorted((first, second))
    longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room - room // 2
    return (longer, shorter) if first > second else (shorter, longer)
