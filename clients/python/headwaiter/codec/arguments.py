"""What callers give, checked as far as the wire demands it: the model's own limits are the server's to check."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING

from headwaiter.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_UINT32 = 2**32 - 1
MAX_INT64 = 2**63 - 1
MAX_UINT64 = 2**64 - 1


def as_texts(texts: str | Sequence[str], field: str = "texts") -> list[str]:
    """One text or several, as a list.

    Raises:
        InvalidRequestError: There is none, or one has no UTF-8 form.
    """
    if isinstance(texts, str):
        texts = [texts]
    try:
        iter(texts)
    except TypeError as error:
        raise _refused(field, f"is {texts!r}, neither a text nor several") from error
    return [as_unicode(f"{field}[{index}]", text) for index, text in enumerate(texts)]


def as_unicode(field: str, text: str) -> str:
    """A text that can be written to the wire.

    Raises:
        InvalidRequestError: It is none, or has no UTF-8 form.
    """
    # A lone surrogate, as `surrogateescape` and JSON make them, has no UTF-8 form: name the field it is in.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"holds {text[error.start]!r} at position {error.start}, which is not a Unicode character"
        raise _refused(field, what) from error
    except AttributeError as error:
        raise _refused(field, f"is {text!r}, not a text") from error
    return text


def as_number(field: str, value: int, maximum: int = MAX_UINT32) -> int:
    """A number that can be written to the wire.

    Raises:
        InvalidRequestError: It is not whole, or out of range.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise _refused(field, f"is {value!r}, not a whole number") from error
    if not 0 <= number <= maximum:
        raise _refused(field, f"is {number}, outside 0 to {maximum}")
    return number


def as_real(field: str, value: float) -> float:
    """A number, whole or not, that can be written to the wire.

    Raises:
        InvalidRequestError: It is none.
    """
    try:
        math.isnan(value)  # what that takes, protobuf takes
    except (TypeError, OverflowError) as error:
        raise _refused(field, f"is {value!r}, not a number that can be sent") from error
    return value


def as_version(version: int) -> int:
    """A model's version.

    Raises:
        InvalidRequestError: It is not whole, or out of range.
    """
    return as_number("version", version, MAX_INT64)


def _refused(field: str, description: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field}: {description}", field, description)
