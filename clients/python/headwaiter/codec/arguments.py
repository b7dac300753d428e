"""What callers give, checked as far as the wire demands it: the model's own limits are the server's to check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwaiter.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_UINT32 = 2**32 - 1
MAX_INT64 = 2**63 - 1


def as_texts(texts: str | Sequence[str], field: str = "texts") -> list[str]:
    """One text or several, as a list.

    Raises:
        InvalidRequestError: One has no UTF-8 form.
    """
    if isinstance(texts, str):
        texts = [texts]
    return [as_unicode(f"{field}[{index}]", text) for index, text in enumerate(texts)]


def as_unicode(field: str, text: str) -> str:
    """A text that can be written to the wire.

    Raises:
        InvalidRequestError: It has no UTF-8 form.
    """
    # A lone surrogate, as `surrogateescape` and JSON make them, has no UTF-8 form: name the field it is in.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        description = f"holds {text[error.start]!r} at position {error.start}, which is not a Unicode character"
        raise InvalidRequestError(f"{field}: {description}", field, description) from error
    return text


def as_number(field: str, value: int, maximum: int = MAX_UINT32) -> int:
    """A number that can be written to the wire.

    Raises:
        InvalidRequestError: It is out of range.
    """
    if not 0 <= value <= maximum:
        description = f"is {value}, outside 0 to {maximum}"
        raise InvalidRequestError(f"{field}: {description}", field, description)
    return value


def as_version(version: int) -> int:
    """A model's version.

    Raises:
        InvalidRequestError: It is out of range.
    """
    return as_number("version", version, MAX_INT64)
