"""Access files, and the tokens that they hold hashes of, for tests."""

from __future__ import annotations

import hashlib
from pathlib import Path

ADA, BOB, EVE = "ada-0123456789abcdef", "bob-0123456789abcdef", "eve-0123456789abcdef"


def digest(token: str) -> str:
    """The hash of a token, as any other tool would print it."""
    return hashlib.sha256(token.encode()).hexdigest()


def client(name: str, *tokens: str, roles: str = '"infer"', more: str = "") -> str:
    """The table of one client."""
    hashes = ", ".join(f'"{digest(token)}"' for token in tokens)
    return f'[[client]]\nname = "{name}"\ntoken_sha256 = [{hashes}]\nroles = [{roles}]\n{more}\n'


def write_access(path: Path, *clients: str) -> Path:
    """Write a file of them, put in its place as a whole."""
    fresh = path.with_suffix(".new")
    fresh.write_text("\n".join(clients), encoding="utf-8")
    return fresh.replace(path)


def bearer(token: str) -> tuple[tuple[str, str]]:
    """The metadata that shows a token."""
    return (("authorization", f"Bearer {token}"),)
