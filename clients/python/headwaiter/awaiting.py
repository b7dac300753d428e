"""How the asyncio client calls: everything but its methods."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar, cast

import grpc
import grpc.aio

from headwaiter import codec, methods
from headwaiter.base import ClientBase
from headwaiter.errors import CallCancelledError
from headwaiter.generation_stream import AsyncGenerationStream
from headwaiter.status import error_from_rpc, told_by_server
from headwaiter.streaming import MESSAGES_IN_FLIGHT, InOrder, each

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from headwaiter_proto.v1 import inference_pb2

    from headwaiter.connection import Options
    from headwaiter.methods import RequestT, ResponseT, ResultT, StreamMethod, UnaryMethod
    from headwaiter.results import StreamedReply

Item = TypeVar("Item")


class AwaitingBase(ClientBase[grpc.aio.Channel]):
    """A client whose calls are awaited."""

    async def close(self) -> None:
        """Ends calls that still run, with `CallCancelledError`, and closes the connections."""
        for channel in self._shut():
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _open(self, options: Options) -> grpc.aio.Channel:
        if self._connection.credentials is None:
            return grpc.aio.insecure_channel(self.target, options=options)
        return grpc.aio.secure_channel(self.target, self._connection.credentials, options=options)

    async def _call(
        self,
        method: UnaryMethod[RequestT, ResponseT, ResultT],
        request: RequestT,
        timeout_seconds: float | None,
        metadata: Mapping[str, str] | None = None,
    ) -> ResultT:
        call: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT] = self._prepared(method)
        try:
            response = await call(
                request,
                timeout=self._connection.deadline_seconds(timeout_seconds),
                metadata=self._connection.call_metadata(metadata),
                wait_for_ready=self._connection.wait_for_ready,
            )
        except grpc.RpcError as error:
            raise error_from_rpc(error, self.target) from error
        except asyncio.CancelledError:
            self._check_cancelled()
            raise
        return method.decode(response)

    async def _stream(
        self,
        method: StreamMethod[RequestT, ResponseT, StreamedReply],
        items: Iterable[Item] | AsyncIterable[Item],
        request: Callable[[int, Item], RequestT],
        timeout_seconds: float | None,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[StreamedReply, None]:
        start: grpc.aio.StreamStreamMultiCallable[RequestT, ResponseT] = self._prepared(method)
        call: grpc.aio.StreamStreamCall[RequestT, ResponseT] = start(
            timeout=None if timeout_seconds is None else self._connection.deadline_seconds(timeout_seconds),
            metadata=self._connection.call_metadata(metadata),
            wait_for_ready=self._connection.wait_for_ready,
        )
        free = asyncio.Semaphore(MESSAGES_IN_FLIGHT)
        in_order = InOrder()

        async def send() -> int:
            count = 0
            try:
                async with aclosing(each(items)) as them:
                    async for item in them:
                        await free.acquire()
                        await call.write(request(count, item))
                        count += 1
            except Exception:
                # What the input raises is told once what was sent is answered.
                await call.done_writing()
                raise
            await call.done_writing()
            return count

        sending = asyncio.create_task(send())
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                for reply in in_order.add(method.decode(cast("ResponseT", response))):
                    free.release()
                    yield reply
            in_order.check(await sending)
        except grpc.RpcError as error:
            raise error_from_rpc(await told_by_server(call, error), self.target) from error
        except asyncio.CancelledError:
            self._check_cancelled()
            raise
        finally:
            call.cancel()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    def _generation_stream(
        self,
        request: inference_pb2.GenerateRequest,
        timeout_seconds: float | None,
        metadata: Mapping[str, str] | None,
    ) -> AsyncGenerationStream:
        loop = asyncio.get_running_loop()  # without one, no call begins that could not be ended
        start: grpc.aio.UnaryStreamMultiCallable[
            inference_pb2.GenerateRequest, inference_pb2.GenerateStreamResponse
        ] = self._prepared(methods.GENERATE_STREAM)
        call = start(
            request,
            timeout=None if timeout_seconds is None else self._connection.deadline_seconds(timeout_seconds),
            metadata=self._connection.call_metadata(metadata),
            wait_for_ready=self._connection.wait_for_ready,
        )
        return AsyncGenerationStream(call, codec.Pieces(len(request.texts)), self.target, loop)

    def _check_cancelled(self) -> None:
        """Tell a closed client from a cancelled task.

        grpc.aio ends the calls of a closed channel as if their tasks had been cancelled. Only a task that was
        cancelled itself may see that: anyone else would swallow or spread a cancellation nobody asked for.
        """
        task = asyncio.current_task()
        if self._closed and task is not None and not task.cancelling():
            raise CallCancelledError("the client was closed during the call") from None
