"""The tokenizer of one model, with its refusals of a text."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import tokenizers

from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import BundleError, InvalidRequestError
from headwaiter_server.tokenizer.streaming import Detokenizing, detokenizing
from headwaiter_server.tokenizer.truncation import MOST_CHARACTERS_PER_TOKEN, deciding_beginning, positions_kept

# A text, or a pair of texts that the model reads together.
_Input: TypeAlias = str | tuple[str, str]

# Of an unknown word, what an error message shows.
_SHOWN_CHARACTERS = 20
# Characters that are encoded before their tokens are looked at: the library takes some 150 bytes for a token, and a
# message of megabytes that is refused for its first text must not cost a gigabyte.
_CHARACTERS_AT_A_TIME = 65_536

# The library would start as many threads as the host has processors, whatever the container may use. Whoever wants
# several calls tokenized at one time uses several threads, of which the server has its own.
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text, for people to look at.

    Attributes:
        ids: Token ids, special tokens included.
        tokens: The tokens as the vocabulary writes them.
        offsets: First character of each and one past its last, in code points; special tokens stand at (0, 0).
    """

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]


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
        self.max_tokens = max_tokens
        self._refused_id = refused_id
        self._most_characters = max_tokens * MOST_CHARACTERS_PER_TOKEN
        self._empty_tokens = len(tokenizer.encode("").ids)
        self._single_has_types = any(tokenizer.encode("a").type_ids)

    @classmethod
    def from_json(cls, tokenizer_json: str, max_tokens: int, refused_id: int | None) -> TextTokenizer:
        """Read tokenizer.json's text.

        Raises:
            BundleError: It is no tokenizer.
        """
        try:
            tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
            tokenizer.no_padding()
            tokenizer.no_truncation()
            # A caller who writes "</s>" sends four characters, not the end of the text.
            tokenizer.encode_special_tokens = True
            return cls(tokenizer, max_tokens, refused_id)  # which encodes something
        except Exception as error:
            # The library raises bare Exception.
            raise BundleError("tokenizer.json is no tokenizer that can be used", error) from error

    def encode(self, text: str, field: str, *, truncate: bool = False, offsets: bool = False) -> Encoding:
        """Token ids of one text.

        Args:
            text: The text.
            field: Where it stands in the request, for the error.
            truncate: Whether a text that is too long is cut at its end instead of refused.
            offsets: Whether to say where each token stands in the text.

        Raises:
            InvalidRequestError: It is empty, too long, or holds what the vocabulary does not. Of a text of more than
                128 characters for each token of the limit, the number of characters is told; it is refused also with
                `truncate` if that many characters do not decide its first tokens.
        """
        return self._encode([text], [field], truncate=truncate, offsets=offsets)[0]

    def encode_all(
        self, texts: Iterable[str], field: str, *, truncate: bool = False, offsets: bool = False
    ) -> list[Encoding]:
        """Token ids of each of many texts; see `encode`. Errors name `field[index]`."""
        inputs = list(texts)
        return self._encode(inputs, _numbered(field, len(inputs)), truncate=truncate, offsets=offsets)

    def encode_pair(
        self, first: str, second: str, field: str, *, truncate: bool = False, keep_first: bool = False
    ) -> Encoding:
        """Token ids of two texts that the model reads together.

        Args:
            first: The first text.
            second: The second text.
            field: Where the pair stands in the request, for the error.
            truncate: Whether a pair that is too long is cut instead of refused: the longer text at its end, special
                tokens stay.
            keep_first: Whether only the second text may be cut.

        Raises:
            InvalidRequestError: See `encode`; or what is kept of the first text leaves no room for the second.
        """
        return self._encode([(first, second)], [field], truncate=truncate, keep_first=keep_first)[0]

    def encode_pairs(
        self, pairs: Iterable[tuple[str, str]], field: str, *, truncate: bool = False, keep_first: bool = False
    ) -> list[Encoding]:
        """Token ids of each of many pairs; see `encode_pair`. Errors name `field[index]`."""
        inputs = list(pairs)
        return self._encode(inputs, _numbered(field, len(inputs)), truncate=truncate, keep_first=keep_first)

    def tokens_of(self, text: str, field: str) -> Tokens:
        """The tokens of a text of any number of tokens, also of an empty one.

        Raises:
            InvalidRequestError: It has more characters than the longest text can have that the model takes.
        """
        encoded = self._tokenizer.encode(self._whole(text, field))
        return Tokens(encoded.ids, encoded.tokens, encoded.offsets)

    @cached_property
    def detokenizing(self) -> Detokenizing:
        """What `decode` makes of further tokens, for whoever decodes them one by one."""
        return detokenizing(self._tokenizer)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out.

        Raises:
            Exception: The tokenizer's decoder breaks on them.
        """
        try:
            text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        except BaseException as error:
            if isinstance(error, Exception | KeyboardInterrupt | SystemExit):
                raise
            # What a library panics with that is in another language would end a thread, and all that it does.
            raise RuntimeError(f"the tokenizer has panicked: {error}") from error
        return text

    def written(self, ids: Sequence[int]) -> list[str]:
        """Tokens as the vocabulary writes them; an id that it does not know is written as nothing."""
        return [self._tokenizer.id_to_token(each) or "" for each in ids]

    def _encode(
        self,
        inputs: Sequence[_Input],
        fields: Sequence[str],
        *,
        truncate: bool = False,
        offsets: bool = False,
        keep_first: bool = False,
    ) -> list[Encoding]:
        bounded = [
            self._bounded(each, field, truncate=truncate, keep_first=keep_first)
            for each, field in zip(inputs, fields, strict=True)
        ]
        # The fast way keeps no offsets; it takes a fifth less time, also for one text.
        encode = self._tokenizer.encode_batch if offsets else self._tokenizer.encode_batch_fast
        results: list[Encoding] = []
        encodings = itertools.chain.from_iterable(map(encode, _pieces(bounded)))
        for each, field, encoded in zip(bounded, fields, encodings, strict=True):
            ids: list[int] = encoded.ids
            pair = not isinstance(each, str)
            if len(ids) <= self._empty_tokens or (pair and not {0, 1} <= set(encoded.sequence_ids)):
                raise InvalidRequestError(field, "is empty: nothing is left of it to read")
            result = Encoding(
                ids,
                encoded.type_ids if pair or self._single_has_types else None,
                offsets=encoded.offsets if offsets else None,
            )
            if len(ids) > self.max_tokens:
                if not truncate:
                    raise InvalidRequestError(field, f"has {len(ids)} tokens, the limit is {self.max_tokens}")
                result = self._cut(result, encoded.sequence_ids, field, keep_first=keep_first)
            if self._refused_id is not None and self._refused_id in result.ids:
                raise self._unknown((each,) if isinstance(each, str) else each, field)
            results.append(result)
        return results

    def _cut(self, whole: Encoding, sequences: Sequence[int | None], field: str, *, keep_first: bool) -> Encoding:
        kept = positions_kept(sequences, self.max_tokens, keep_first=keep_first)
        if kept is None:
            raise InvalidRequestError(
                field, f"has {len(whole)} tokens, the limit is {self.max_tokens}, and what must stay leaves no room"
            )
        return Encoding(
            [whole.ids[position] for position in kept],
            None if whole.type_ids is None else [whole.type_ids[position] for position in kept],
            truncated=True,
            offsets=None if whole.offsets is None else [whole.offsets[position] for position in kept],
        )

    def _unknown(self, texts: Sequence[str], field: str) -> InvalidRequestError:
        """The refusal of what the vocabulary does not hold, naming the first of it."""
        for text in texts:
            encoded = self._tokenizer.encode(text)
            if self._refused_id in encoded.ids:
                start, stop = encoded.offsets[encoded.ids.index(self._refused_id)]
                unknown = text[start:stop][:_SHOWN_CHARACTERS]
                points = " ".join(f"U+{ord(character):04X}" for character in unknown)
                return InvalidRequestError(
                    field,
                    f"holds {unknown!r} ({points}) at character {start + 1}, which the model's vocabulary does not",
                )
        return InvalidRequestError(field, "holds what the model's vocabulary does not")

    def _bounded(self, each: _Input, field: str, *, truncate: bool, keep_first: bool) -> _Input:
        """The text, or as much of it as matters, with a bound on its characters."""
        if isinstance(each, str):
            return self._beginning(each, field) if truncate else self._whole(each, field)
        first, second = each
        # Where both are cut, the longer one keeps the odd token: two beginnings would not tell which that is.
        return self._whole(first, field), (self._beginning if truncate and keep_first else self._whole)(second, field)

    def _beginning(self, text: str, field: str) -> str:
        return deciding_beginning(self._tokenizer, text, self.max_tokens) or self._whole(text, field)

    def _whole(self, text: str, field: str) -> str:
        if len(text) > self._most_characters:
            # Refused by its length alone: counting the tokens of megabytes would cost a gigabyte of memory.
            raise InvalidRequestError(
                field,
                f"has {len(text)} characters, more than {self._most_characters}; the limit is {self.max_tokens} tokens",
            )
        return text


def _pieces(inputs: Sequence[_Input]) -> Iterator[Sequence[_Input]]:
    """The inputs in as many pieces as their length asks for; one, as a rule."""
    start = characters = 0
    for index, each in enumerate(inputs):
        size = len(each) if isinstance(each, str) else len(each[0]) + len(each[1])
        if characters and characters + size > _CHARACTERS_AT_A_TIME:
            yield inputs[start:index]
            start, characters = index, 0
        characters += size
    yield inputs[start:]


def _numbered(field: str, count: int) -> list[str]:
    return [f"{field}[{index}]" for index in range(count)]
