"""Texts to the tokens that the model would read; nothing runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.pipeline.core import Core
from headwaiter_server.scheduling.admission import Permit
from headwaiter_server.scheduling.calls import Terms
from headwaiter_server.tokenizer import Tokens

# Texts may be longer than the model's limit, but the tokenizer takes some 150 bytes of memory for a token, and an
# answer has four numbers or names for each.
_MOST_CHARACTERS = 262_144


@dataclass(frozen=True, slots=True)
class TokenizationRequest:
    """A request to tokenize, in plain Python.

    Attributes:
        model: Name, or "".
        version: Version, or 0.
        texts: What to tokenize.
    """

    model: str
    version: int
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class TokenizationReply:
    """The answer to a `TokenizationRequest`, texts in order.

    Attributes:
        model: Whose tokenizer answered.
        tokens: Of each text.
        tokenize_seconds: How long that took.
        characters: Of all texts together: what it takes to write their tokens down grows with them.
    """

    model: ServedModel
    tokens: list[Tokens]
    tokenize_seconds: float
    characters: int


async def tokenize(core: Core, permit: Permit, terms: Terms, request: TokenizationRequest) -> TokenizationReply:
    """Turn each text of a request into tokens."""
    model = core.claim(permit, request.model, request.version)
    started = core.clock()
    texts = list(request.texts)
    core.hold(permit, texts)
    characters = sum(map(len, texts))
    if characters > _MOST_CHARACTERS:
        raise InvalidRequestError("texts", f"has {characters} characters together, the limit is {_MOST_CHARACTERS}")

    def encode() -> list[Tokens]:
        return [model.tokenizer.tokens_of(text, f"texts[{index}]") for index, text in enumerate(texts)]

    tokens = await core.read(terms.spending, encode, len(texts), characters)
    ended = core.clock()
    terms.trail.read(started, ended, sum(len(each.ids) for each in tokens))
    return TokenizationReply(model, tokens, ended - started, characters)
