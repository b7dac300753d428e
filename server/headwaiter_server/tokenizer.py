"""Texts to token ids and back, with the tokenizer the model was trained with."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers

from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import BundleError, InvalidRequestError

# No tokenizer's vocabulary has entries this long; only runs of white space come near.
_MOST_CHARACTERS_PER_TOKEN = 128
# Of an unknown word, what an error message shows.
_SHOWN_CHARACTERS = 20


class TextTokenizer:
    """A Hugging Face tokenizer, configured once and never changed; may be used from several threads."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, max_tokens: int, refused_id: int | None) -> None:
        """Wrap a tokenizer.

        Args:
            tokenizer: Without padding and truncation: those are the batcher's and the caller's decisions.
            max_tokens: Longest text the model takes, special tokens included.
            refused_id: The unknown token, if texts that hold it are refused.
        """
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._refused_id = refused_id
        self._empty_tokens = len(tokenizer.encode("").ids)

    @classmethod
    def from_json(cls, tokenizer_json: str, max_tokens: int, refused_id: int | None) -> TextTokenizer:
        """Read tokenizer.json's text.

        Raises:
            BundleError: It is no tokenizer.
        """
        try:
            tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
        except Exception as error:
            # The library raises bare Exception.
            raise BundleError(f"tokenizer.json: {error}") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        # A caller who writes "</s>" sends four characters, not the end of the text.
        tokenizer.encode_special_tokens = True
        return cls(tokenizer, max_tokens, refused_id)

    def encode(self, text: str, field: str) -> Encoding:
        """Token ids of one text.

        Args:
            text: The text.
            field: Where it stands in the request, for the error.

        Raises:
            InvalidRequestError: It is empty, too long, or holds what the vocabulary does not.
        """
        if len(text) > self._max_tokens * _MOST_CHARACTERS_PER_TOKEN:
            # Refused by its length alone: counting the tokens of megabytes would cost a gigabyte of memory.
            raise InvalidRequestError(
                field,
                f"has {len(text)} characters, more than {self._max_tokens * _MOST_CHARACTERS_PER_TOKEN}; "
                f"the limit is {self._max_tokens} tokens",
            )
        encoded = self._tokenizer.encode(text)
        ids: list[int] = encoded.ids
        if len(ids) <= self._empty_tokens:
            raise InvalidRequestError(field, "is empty: nothing is left of it to read")
        if len(ids) > self._max_tokens:
            raise InvalidRequestError(field, f"has {len(ids)} tokens, the limit is {self._max_tokens}")
        if self._refused_id is not None and self._refused_id in ids:
            start, stop = encoded.offsets[ids.index(self._refused_id)]
            unknown = text[start:stop][:_SHOWN_CHARACTERS]
            points = " ".join(f"U+{ord(character):04X}" for character in unknown)
            raise InvalidRequestError(
                field, f"holds {unknown!r} ({points}) at character {start + 1}, which the model's vocabulary does not"
            )
        return Encoding(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text
