"""What `generate_stream` gives: an iterator over pieces that ends its call when nobody iterates any more."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import grpc
import grpc.aio

from headwaiter.errors import CallCancelledError
from headwaiter.status import error_from_rpc

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from headwaiter_proto.v1 import inference_pb2

    from headwaiter.codec import Pieces
    from headwaiter.results import GenerateReply, GenerationPiece

    Call = grpc._CallIterator[inference_pb2.GenerateStreamResponse]  # noqa: SLF001 - its only name in gRPC's stubs
    AsyncCall = grpc.aio.UnaryStreamCall[inference_pb2.GenerateRequest, inference_pb2.GenerateStreamResponse]


class GenerationStream:
    """The pieces of a blocking `generate_stream`, as they come.

    Leaving a `with` block, `close()`, and breaking out of a loop over a stream that nothing else holds end the call,
    and the server works on it no longer.

        for piece in client.generate_stream("Once upon a time"):
            print(piece.text, end="", flush=True)

    Iterating raises a subclass of `HeadwaiterError` when the call fails; pieces that had come stay good.
    """

    def __init__(self, call: Call, pieces: Pieces, target: str) -> None:
        self._call = call
        self._pieces = pieces
        self._target = target
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> GenerationPiece:
        try:
            for response in self._call:
                if (piece := self._pieces.read(response)) is not None:
                    return piece
        except grpc.RpcError as error:
            failure = error_from_rpc(error, self._target)
            if self._closed and isinstance(failure, CallCancelledError):
                failure = CallCancelledError("the stream was closed before its end")
            raise failure from error
        except BaseException:
            # Ctrl-C, or what nobody can read: its traceback may hold this stream for long.
            self.close()
            raise
        self._pieces.reply()  # raises where texts are without their ends
        raise StopIteration

    def reply(self) -> GenerateReply:
        """Reads what is left, and gives what `generate` would have returned.

        Raises:
            HeadwaiterError: The call fails before its end.
        """
        for _ in self:
            pass
        return self._pieces.reply()

    def close(self) -> None:
        """Ends the call, if it has not ended; iterating on raises `CallCancelledError`."""
        self._closed = True
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class AsyncGenerationStream:
    """The pieces of an asyncio `generate_stream`: as of `GenerationStream`, with `async for` and `async with`."""

    def __init__(self, call: AsyncCall, pieces: Pieces, target: str, loop: asyncio.AbstractEventLoop) -> None:
        self._call = call
        self._pieces = pieces
        self._target = target
        self._loop = loop

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationPiece:
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                piece = self._pieces.read(cast("inference_pb2.GenerateStreamResponse", response))
                if piece is not None:
                    return piece
        except grpc.RpcError as error:
            raise error_from_rpc(error, self._target) from error
        except asyncio.CancelledError:
            # grpc.aio says so of a call that `close()` has ended, too; only a task that was cancelled may see that.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise CallCancelledError("the stream, or its client, was closed") from None
        except BaseException:
            self._call.cancel()  # as of `GenerationStream`
            raise
        self._pieces.reply()  # raises where texts are without their ends
        raise StopAsyncIteration

    async def reply(self) -> GenerateReply:
        """Reads what is left, and gives what `generate` would have returned.

        Raises:
            HeadwaiterError: The call fails before its end.
        """
        async for _ in self:
            pass
        return self._pieces.reply()

    async def aclose(self) -> None:
        """Ends the call, if it has not ended; iterating on raises `CallCancelledError`."""
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not self._call.done():
            # Any thread may collect garbage, even after the loop has ended (RuntimeError).
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._call.cancel)
