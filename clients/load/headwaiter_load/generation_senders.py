"""Calls that generate: what came of whole answers, and what tokens came when of those in pieces."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import grpc
from headwaiter_proto.v1 import inference_pb2

from headwaiter_load.endpoint import Metadata
from headwaiter_load.outcome import OK, Generated, Outcome, failure


def whole_answer(raw: bytes) -> Outcome:
    """What a call that is answered whole has generated."""
    answer = inference_pb2.GenerateResponse.FromString(raw)
    tokens = sum(len(each.token_ids) for each in answer.generations)
    return Outcome(OK, received_bytes=len(raw), generated=Generated(tokens))


class GenerateStreamSender:
    """Each message is a call that is answered in pieces; channels take turns."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], path: str, metadata: Metadata) -> None:
        methods: list[grpc.aio.UnaryStreamMultiCallable[bytes, bytes]] = [each.unary_stream(path) for each in channels]
        self._methods = itertools.cycle(methods)
        self._metadata = metadata or None

    async def send(self, payload: bytes, timeout_seconds: float | None) -> Outcome:
        """As of `Sender`; the answer is there with its last piece."""
        pieces = _Pieces(len(inference_pb2.GenerateRequest.FromString(payload).texts))
        call = next(self._methods)(payload, timeout=timeout_seconds, metadata=self._metadata)
        try:
            # A call whose reading is cancelled is cancelled by grpc.aio itself.
            while isinstance(raw := await call.read(), bytes):
                pieces.take(raw, time.monotonic())
        except grpc.aio.AioRpcError as error:
            return failure(error)
        return pieces.outcome()

    async def close(self) -> None:
        """Nothing is held open."""


class _Pieces:
    """The pieces of one call.

    Args:
        texts: How many texts it is of.
    """

    def __init__(self, texts: int) -> None:
        self._tokens = self._received_bytes = 0
        self._first_times: list[float] = []
        self._gaps: list[float] = []
        # When each text's last piece with tokens was there, by its index; and the texts that have not ended.
        self._latest: dict[int, float] = {}
        self._open = set(range(texts))

    def take(self, raw: bytes, now: float) -> None:
        """Counts one in."""
        piece = inference_pb2.GenerateStreamResponse.FromString(raw)
        self._received_bytes += len(raw)
        if tokens := len(piece.token_ids):
            self._tokens += tokens
            before = self._latest.get(piece.index)
            if before is None:
                self._first_times.append(now)
            else:
                self._gaps.append(now - before)
            self._latest[piece.index] = now
        if piece.HasField("finished"):
            self._open.discard(piece.index)

    def outcome(self) -> Outcome:
        """What came of a call that ended well."""
        if self._open:
            return Outcome("UNKNOWN", "the stream ended before its texts did", self._received_bytes)
        generated = Generated(self._tokens, tuple(self._first_times), tuple(self._gaps))
        return Outcome(OK, received_bytes=self._received_bytes, generated=generated)
