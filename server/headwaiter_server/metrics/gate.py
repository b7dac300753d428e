"""Who may read the metrics port: whoever shows its token, if it has one."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path

from headwaiter_server.access.tokens import refuse_short
from headwaiter_server.errors import ConfigError
from headwaiter_server.rereading import Reread, read_file

_SETTING = "--metrics-token-file"


class Gate:
    """Knows a token by its digest, from a file that is read again when it changes."""

    def __init__(self, path: Path) -> None:
        """Read the token.

        Raises:
            ConfigError: The file cannot be read, or holds no token, or one that can be guessed.
        """
        self._digest = Reread("the token of the metrics port", [path], lambda: _digest_of(path))

    def admits(self, authorization: str) -> bool:
        """Whether a header holds the token: as Bearer (RFC 6750), or as the password of Basic (RFC 7617)."""
        scheme, _, credentials = authorization.partition(" ")
        match scheme.lower():
            case "bearer":
                shown = credentials.strip().encode("latin-1")
            case "basic":
                try:
                    _, _, shown = base64.b64decode(credentials.strip(), validate=True).partition(b":")
                except (binascii.Error, ValueError):
                    return False
            case _:
                return False
        # Digests, so that the time tells nothing of the token, its length included.
        return hmac.compare_digest(hashlib.sha256(shown).digest(), self._digest.current())


def _digest_of(path: Path) -> bytes:
    token = read_file(path, _SETTING).strip()
    if not token or not all(0x21 <= byte <= 0x7E for byte in token):  # noqa: PLR2004 - what is printed in ASCII
        raise ConfigError(f"{_SETTING}: {path}: a token is one word of printable ASCII characters")
    try:
        refuse_short(token)
    except ConfigError as error:
        raise ConfigError(f"{_SETTING}: {path}: {error}") from None
    return hashlib.sha256(token).digest()
