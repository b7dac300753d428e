"""Tokens, and what is kept of them."""

from __future__ import annotations

import hashlib
import re
import secrets

from headwaiter_server.errors import ConfigError

# 256 bits, as many as the hash has.
_RANDOM_BYTES = 32
# Of random letters and digits, so many are beyond guessing.
_FEWEST_CHARACTERS = 16
# What may stand behind "Bearer": RFC 6750, section 2.1.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(_RANDOM_BYTES)


def hash_of(token: str) -> bytes:
    """What is known of a token: its SHA-256.

    A plain hash is enough for what is random: there is no dictionary to try. For what a person thought of it is not.
    """
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def hash_line(text: str) -> str:
    """The hash of a token as an access file has it, in hexadecimal digits.

    Args:
        text: The token, perhaps with spaces or a line's end around it.

    Raises:
        ConfigError: It cannot be one, or is short enough to be guessed. The error does not quote it.
    """
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise ConfigError("a token is one word of letters, digits and - . _ ~ + /; --new-token makes one")
    refuse_short(token)
    return hash_of(token).hex()


def refuse_short(token: str | bytes) -> None:
    """Refuse a token that is short enough to be guessed.

    Raises:
        ConfigError: It is. The error does not quote it.
    """
    if len(token) < _FEWEST_CHARACTERS:
        raise ConfigError(
            f"the token has {len(token)} characters, fewer than {_FEWEST_CHARACTERS} can be guessed; "
            "--new-token makes one"
        )
