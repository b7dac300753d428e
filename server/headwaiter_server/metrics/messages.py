"""Requests and answers of the metrics port, and how they stand on the wire: as much of HTTP/1.1 as it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote

from headwaiter_server.metrics.connections import Connection

# Prometheus and browsers send about one kilobyte.
_MOST_HEAD_BYTES = 16 << 10
_HEAD_END = b"\r\n\r\n"
_REQUEST_LINE = re.compile(r"(?P<method>[A-Z]{1,16}) (?P<path>/[^\s?]*)(?:\?(?P<query>\S*))? HTTP/1\.[01]")
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """A request without a body.

    Attributes:
        path: Decoded, without the query.
        headers: By their names in lower case.
        query: What stood after the question mark, as it was sent.
    """

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer.

    Attributes:
        body: Its bytes.
        content_type: What they are.
        status: How the request went.
        headers: Further ones.
    """

    body: bytes
    content_type: str = _TEXT
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


Route = Callable[[Request], Response]


class RefusedError(Exception):
    """A request that no route is asked about."""

    def __init__(self, status: HTTPStatus, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status.phrase)
        self.response = Response(f"{status.phrase}\n".encode(), status=status, headers=headers or {})


async def read_head(connection: Connection) -> bytes:
    """Everything up to the empty line.

    Raises:
        EOFError: The other side ended before.
        RefusedError: It is too long.
    """
    head = bytearray()
    end = -1
    while end < 0:
        data = await connection.read()
        if not data:
            raise EOFError
        searched = max(0, len(head) - len(_HEAD_END) + 1)
        head += data
        end = head.find(_HEAD_END, searched)
        if (end if end >= 0 else len(head)) > _MOST_HEAD_BYTES:
            raise RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    return bytes(head[: end + len(_HEAD_END)])


def parse(head: bytes) -> tuple[str, Request]:
    """The method of a request, and the request.

    Raises:
        RefusedError: This is no HTTP.
    """
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise RefusedError(HTTPStatus.BAD_REQUEST)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise RefusedError(HTTPStatus.BAD_REQUEST)
        key, value = name.strip().lower(), value.strip()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return match["method"], Request(unquote(match["path"]), headers, match["query"] or "")


def serialized(response: Response, *, with_body: bool) -> bytes:
    """An answer as it is sent; without its body to those who asked for the head alone."""
    headers = {
        "Content-Type": response.content_type,
        "Content-Length": str(len(response.body)),
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
        **response.headers,
    }
    lines = [f"HTTP/1.1 {response.status.value} {response.status.phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    return head + response.body if with_body else head
