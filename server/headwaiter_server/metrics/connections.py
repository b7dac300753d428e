"""One connection of the metrics port, in clear text or with TLS, as the endpoint reads and answers it.

TLS is done here by hand, on asyncio's plain streams: a handshake then is a part of the conversation and bounded as all
of it is, where asyncio's own would be one more connection that nobody counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Protocol, TypeVar

Result = TypeVar("Result")

_CHUNK_BYTES = 16 << 10


class Connection(Protocol):
    """What comes, and one answer."""

    async def read(self) -> bytes:
        """The next bytes; none at the end."""

    async def end_with(self, data: bytes) -> None:
        """Send these last bytes, and wait until the other side has read them and closes.

        Closing before that may cut what is still on its way.
        """


class PlainConnection:
    """A connection in clear text."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use both halves of a connection."""
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """See `Connection`."""
        return await self._reader.read(_CHUNK_BYTES)

    async def end_with(self, data: bytes) -> None:
        """See `Connection`."""
        self._writer.write(data)
        self._writer.write_eof()
        while await self._reader.read(_CHUNK_BYTES):
            pass


class TlsConnection:
    """A connection with TLS; the handshake is made when something is first read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
        """Use both halves of a connection.

        Args:
            reader: What comes, encrypted.
            writer: What goes.
            context: The certificate and its key.
        """
        self._plain = PlainConnection(reader, writer)
        self._writer = writer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def read(self) -> bytes:
        """See `Connection`.

        Raises:
            ssl.SSLError: The other side speaks no TLS, or none that is taken.
        """
        try:
            return await self._with_more(lambda: self._tls.read(_CHUNK_BYTES))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def end_with(self, data: bytes) -> None:
        """See `Connection`."""
        rest = memoryview(data)
        while rest:  # a record at a time
            rest = rest[self._tls.write(rest) :]
        # It says goodbye at once, and wants the other side's before it is done.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._plain.end_with(self._outgoing.read())

    async def _with_more(self, operation: Callable[[], Result]) -> Result:
        """Do something for which the other side may have to send more first."""
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                self._writer.write(self._outgoing.read())
                data = await self._plain.read()
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            finally:
                # Also an alert that says why not.
                self._writer.write(self._outgoing.read())
