"""HTTP/2 frames as bytes, also such as no library would send: what `abuse` is made of.

HTTP/2: RFC 9113; header blocks: RFC 7541, of which literals without indexing suffice to send.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK = END_STREAM = 0x1
END_HEADERS = 0x4

# Settings.
INITIAL_WINDOW_SIZE = 0x4
MAX_HEADER_LIST_SIZE = 0x6

MOST_FRAME_BYTES = 1 << 14
CANCEL = 0x8

_HEADER_BYTES = 9
_MOST_PREFIX = 0x7F
_CONNECT_SECONDS = 20

Header = tuple[str, str]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def setting(number: int, value: int) -> bytes:
    """A setting, as the payload of a frame of settings has several of."""
    return struct.pack(">HI", number, value)


def reset(stream: int, code: int = CANCEL) -> bytes:
    """What takes a stream back."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def window_update(stream: int, size: int) -> bytes:
    """What allows the peer to send so many bytes more."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def header_block(headers: Sequence[Header]) -> bytes:
    """Headers as literals without indexing, without Huffman coding."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)


def call_headers(method: str, *more: Header) -> list[Header]:
    """The headers of a call.

    Args:
        method: `/package.Service/Method`.
        more: Its metadata.
    """
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "abuse"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more,
    ]


def begin_call(stream: int, method: str, *more: Header, flags: int = END_HEADERS) -> bytes:
    """The frame that begins a call."""
    return frame(HEADERS, flags, stream, header_block(call_headers(method, *more)))


def message_prefix(size: int, *, compressed: bool = False) -> bytes:
    """What stands before a message: whether it is compressed, and how long it says it is."""
    return struct.pack(">?I", compressed, size)


def data_frames(stream: int, data: bytes) -> list[bytes]:
    """Data in frames as large as servers take them."""
    return [
        frame(DATA, 0, stream, data[start : start + MOST_FRAME_BYTES])
        for start in range(0, len(data), MOST_FRAME_BYTES)
    ]


def _text(text: str) -> bytes:
    data = text.encode(errors="surrogateescape")
    return _integer(len(data)) + data


def _integer(value: int) -> bytes:
    """An integer with a prefix of 7 bits (RFC 7541, 5.1)."""
    if value < _MOST_PREFIX:
        return bytes((value,))
    parts = bytearray((_MOST_PREFIX,))
    value -= _MOST_PREFIX
    while value >= 1 << 7:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


class Wire:
    """A connection of which every frame is the caller's own choice.

    What comes is counted, and otherwise looked at only as far as flow control takes it.

    Attributes:
        received: Frames that came, by kind.
        data_bytes: Bytes of data that came.
        ended: Streams that the server has ended.
        goaway: The code with which the server has said goodbye; None while it has not.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Set up; see `connect`."""
        self._reader = reader
        self._writer = writer
        self._windows: Counter[int] = Counter()
        self._initial_window = 65_535
        self._moved = asyncio.Event()
        self._over: set[int] = set()
        self._listening = asyncio.get_running_loop().create_task(self._listen())
        self.received: Counter[int] = Counter()
        self.data_bytes = 0
        self.ended = 0
        self.goaway: int | None = None

    @classmethod
    async def connect(cls, target: str, *settings: bytes, preface: bool = True) -> Wire:
        """Connect, and say what HTTP/2 has every client say first.

        Args:
            target: HOST:PORT.
            settings: The client's.
            preface: Whether to say it.
        """
        host, _, port = target.rpartition(":")
        async with asyncio.timeout(_CONNECT_SECONDS):
            wire = cls(*await asyncio.open_connection(host.strip("[]"), int(port)))
        if preface:
            await wire.send(PREFACE, frame(SETTINGS, 0, 0, b"".join(settings)))
        return wire

    @property
    def open(self) -> bool:
        """Whether the server has not closed it."""
        return not self._listening.done()

    async def send(self, *frames: bytes) -> bool:
        """Send frames, as fast as the server reads them.

        Returns:
            Whether they could be sent: the server had not hung up.
        """
        if not self.open:
            return False
        self._writer.write(b"".join(frames))
        with suppress(ConnectionError):
            await self._writer.drain()
            return True
        return False

    async def send_data(self, stream: int, data: bytes, *, wait_seconds: float = 5.0) -> int:
        """Send data as far as the server's windows let it.

        Args:
            stream: The stream.
            data: The data.
            wait_seconds: How long to wait for a window to open.

        Returns:
            How many bytes were sent.
        """
        sent = 0
        while sent < len(data):
            room = min(
                MOST_FRAME_BYTES,
                len(data) - sent,
                65_535 + self._windows[0],
                self._initial_window + self._windows[stream],
            )
            if room <= 0:
                try:
                    async with asyncio.timeout(wait_seconds):
                        await self._moved.wait()
                except TimeoutError:
                    break
                if not self.open:
                    break
                continue
            if not await self.send(frame(DATA, 0, stream, data[sent : sent + room])):
                break
            self._windows[0] -= room
            self._windows[stream] -= room
            sent += room
        return sent

    async def heard(self, seconds: float) -> bool:
        """Wait until the server hangs up, but so long at most.

        Returns:
            Whether it has.
        """
        await asyncio.wait([self._listening], timeout=seconds)
        return not self.open

    async def until_ended(self, streams: int, seconds: float) -> None:
        """Wait until the server has ended so many streams, or hangs up, or so long has passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.ended < streams and self.open:
                    await self._moved.wait()

    async def close(self) -> None:
        """Hang up."""
        self._listening.cancel()
        self._writer.close()
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(1):
                await self._writer.wait_closed()

    async def _listen(self) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                header = await self._reader.readexactly(_HEADER_BYTES)
                size = int.from_bytes(header[:3])
                kind, flags, stream = struct.unpack(">BBI", header[3:])
                payload = await self._reader.readexactly(size)
                self.received[kind] += 1
                if kind == WINDOW_UPDATE:
                    self._windows[stream] += int.from_bytes(payload)
                elif kind == SETTINGS and not flags & ACK:
                    for number, value in struct.iter_unpack(">HI", payload):
                        if number == INITIAL_WINDOW_SIZE:
                            self._initial_window = value
                    self._writer.write(frame(SETTINGS, ACK))
                elif kind == PING and not flags & ACK:
                    self._writer.write(frame(PING, ACK, 0, payload))
                elif kind == GOAWAY:
                    self.goaway = int.from_bytes(payload[4:8])
                elif kind == DATA:
                    self.data_bytes += size
                if (kind in (DATA, HEADERS) and flags & END_STREAM) or kind == RST_STREAM:
                    self._over.add(stream)
                    self.ended = len(self._over)
                moved, self._moved = self._moved, asyncio.Event()
                moved.set()
        self._moved.set()
