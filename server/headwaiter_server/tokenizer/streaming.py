"""What a tokenizer's decoder makes of further tokens: whether the text of the first ones stays as it is."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any, TypedDict

import tokenizers


class Detokenizing(TypedDict):
    """What must be known to turn tokens into text one by one.

    Attributes:
        silent_ids: Tokens that are left out of the text, and numbers that are no tokens.
        byte_ids: Tokens that stand for a byte; neighbouring ones are a text together, or none of them is.
        left_to_right: Whether more tokens only lengthen the text, but for such bytes and a character that is not
            complete.
    """

    silent_ids: Container[int]
    byte_ids: frozenset[int]
    left_to_right: bool


def detokenizing(tokenizer: tokenizers.Tokenizer) -> Detokenizing:
    """Find out how a tokenizer's decoder works."""
    silent_ids = _SilentIds(tokenizer)
    steps = [] if tokenizer.decoder is None else _steps(json.loads(tokenizer.decoder.__getstate__()))
    byte_ids: frozenset[int] = frozenset()
    if any(step["type"] == "ByteFallback" for step in steps):
        written = [f"<0x{byte:{digits}}>" for byte in range(256) for digits in ("02X", "02x")]
        numbers = {tokenizer.token_to_id(each) for each in written}
        byte_ids = frozenset(number for number in numbers if number is not None and number not in silent_ids)
    return Detokenizing(silent_ids=silent_ids, byte_ids=byte_ids, left_to_right=_left_to_right(steps))


class _SilentIds:
    """Special tokens, and whatever a model generates that its tokenizer does not know."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        added: Mapping[int, Any] = tokenizer.get_added_tokens_decoder()
        self._special = {number for number, token in added.items() if token.special}
        self._tokenizer = tokenizer

    def __contains__(self, number: object) -> bool:
        return number in self._special or (isinstance(number, int) and self._tokenizer.id_to_token(number) is None)


def _steps(decoder: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A decoder's steps, those of decoders in it one after the other."""
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for part in decoder["decoders"] for step in _steps(part)]


def _left_to_right(steps: list[Mapping[str, Any]]) -> bool:
    joined = False
    for step in steps:
        kind = step["type"]
        if not (_stays_joined(step) if joined else kind in _TOKEN_BY_TOKEN):
            return False
        joined = joined or kind in _JOINING
    return True


# They look at each token by itself, but for whether it is the first or the last.
_TOKEN_BY_TOKEN = {"BPEDecoder", "ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Strip", "WordPiece"}
_JOINING = {"ByteLevel", "Fuse"}


def _stays_joined(step: Mapping[str, Any]) -> bool:
    """Whether a step over the whole text leaves the beginning as it is, whatever the end."""
    match step["type"]:
        case "Fuse":
            return True
        case "Strip":
            return bool(step["stop"] == 0)
        case "Replace":
            return len(step["pattern"].get("String", "")) == 1
    return False
