"""Connections are bounded over all listeners, so that descriptors are left for everything else."""

from __future__ import annotations

import asyncio
import resource

import pytest
from headwaiter_server.rpc.server import GrpcServer

# What a client of HTTP/2 says first: a preface, and settings of which there are none.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


async def welcomed(address: str, count: int) -> int:
    """How many of so many connections are answered, all of them open at one time."""
    host, _, port = address.rpartition(":")
    kept = []
    answered = 0
    for _ in range(count):
        reader, writer = await asyncio.open_connection(host, int(port))
        kept.append(writer)
        writer.write(HELLO)
        try:
            answered += bool(await asyncio.wait_for(reader.read(1), 10))
        except ConnectionError:
            continue
    for writer in kept:
        writer.close()
    return answered


@pytest.mark.parametrize("listeners", [1, 3])
async def test_connections_leave_descriptors_for_others(monkeypatch: pytest.MonkeyPatch, listeners: int) -> None:
    """Three quarters of the descriptors may be connections, however many listeners they come to."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (16, 16))
    server = GrpcServer([], [], max_message_bytes=1 << 20, max_streams=10, listeners=listeners)
    addresses = [server.listen("127.0.0.1:0") for _ in range(listeners)]
    await server.start()
    try:
        taken = [await welcomed(address, 16) for address in addresses]
    finally:
        await server.stop(0)
    assert taken == [12 // listeners] * listeners
