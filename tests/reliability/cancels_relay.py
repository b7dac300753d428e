"""A relay in front of a server, whose connections can be cut without a word."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

_CHUNK_BYTES = 1 << 16
# On closing, a reset is sent in place of what is left.
_AT_ONCE = struct.pack("ii", 1, 0)


@dataclass
class Relay:
    """Where it listens, and what goes through it.

    Attributes:
        address: HOST:PORT.
    """

    address: str = ""
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            writer.transport.abort()
        self._writers.clear()


@contextlib.asynccontextmanager
async def relay_to(target: str) -> AsyncIterator[Relay]:
    """Relay connections to a server.

    Args:
        target: HOST:PORT.
    """
    relay, tasks = Relay(), set[asyncio.Task[None]]()
    host, _, port = target.rpartition(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK_BYTES):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        relay._writers += [writer, there_writer]
        for ends in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(pump(*ends))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        relay.address = "{}:{}".format(*listener.sockets[0].getsockname())
        yield relay
    finally:
        listener.close()
        relay.cut()
        await asyncio.gather(*tasks)
