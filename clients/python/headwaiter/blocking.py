"""How the blocking client calls: everything but its methods."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from headwaiter import codec, methods
from headwaiter.base import ClientBase
from headwaiter.generation_stream import GenerationStream
from headwaiter.status import error_from_rpc
from headwaiter.streaming import InOrder, Outgoing

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from headwaiter_proto.v1 import inference_pb2

    from headwaiter.connection import Options
    from headwaiter.methods import RequestT, ResponseT, ResultT, StreamMethod, UnaryMethod
    from headwaiter.results import StreamedReply


class BlockingBase(ClientBase[grpc.Channel]):
    """A client whose calls wait for their answers."""

    def close(self) -> None:
        """Ends calls that still run, with `CallCancelledError`, and closes the connections."""
        for channel in self._shut():
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self, options: Options) -> grpc.Channel:
        if self._connection.credentials is None:
            return grpc.insecure_channel(self.target, options=options)
        return grpc.secure_channel(self.target, self._connection.credentials, options=options)

    def _call(
        self,
        method: UnaryMethod[RequestT, ResponseT, ResultT],
        request: RequestT,
        timeout_seconds: float | None,
        metadata: Mapping[str, str] | None = None,
    ) -> ResultT:
        call: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT] = self._prepared(method)
        deadline_seconds = self._connection.deadline_seconds(timeout_seconds)
        with self._told_if_closed():
            try:
                response = call(
                    request,
                    timeout=deadline_seconds,
                    metadata=self._connection.call_metadata(metadata),
                    wait_for_ready=self._connection.wait_for_ready,
                )
            except grpc.RpcError as error:
                raise error_from_rpc(error, self.target) from error
        return method.decode(response)

    def _stream(
        self,
        method: StreamMethod[RequestT, ResponseT, StreamedReply],
        outgoing: Outgoing[RequestT],
        timeout_seconds: float | None,
        metadata: Mapping[str, str] | None = None,
    ) -> Generator[StreamedReply, None, None]:
        start: grpc.StreamStreamMultiCallable[RequestT, ResponseT] = self._prepared(method)
        deadline_seconds = None if timeout_seconds is None else self._connection.deadline_seconds(timeout_seconds)
        in_order = InOrder()
        with self._told_if_closed():
            responses = start(
                iter(outgoing),
                timeout=deadline_seconds,
                metadata=self._connection.call_metadata(metadata),
                wait_for_ready=self._connection.wait_for_ready,
            )
        try:
            for response in responses:
                for reply in in_order.add(method.decode(response)):
                    outgoing.taken()
                    yield reply
        except grpc.RpcError as error:
            raise error_from_rpc(error, self.target) from error
        finally:
            outgoing.stop()
            responses.cancel()
        in_order.check(outgoing.finish())

    def _generation_stream(
        self,
        request: inference_pb2.GenerateRequest,
        timeout_seconds: float | None,
        metadata: Mapping[str, str] | None,
    ) -> GenerationStream:
        start: grpc.UnaryStreamMultiCallable[inference_pb2.GenerateRequest, inference_pb2.GenerateStreamResponse] = (
            self._prepared(methods.GENERATE_STREAM)
        )
        with self._told_if_closed():
            call = start(
                request,
                timeout=None if timeout_seconds is None else self._connection.deadline_seconds(timeout_seconds),
                metadata=self._connection.call_metadata(metadata),
                wait_for_ready=self._connection.wait_for_ready,
            )
        return GenerationStream(call, codec.Pieces(len(request.texts)), self.target)

    @contextmanager
    def _told_if_closed(self) -> Iterator[None]:
        """Tell of a channel that another thread has closed since it was handed out.

        Raises:
            RuntimeError: It was.
        """
        try:
            yield
        except ValueError as error:
            # gRPC's word for it, and for what it finds wrong with a call.
            if self._closed:
                raise RuntimeError("this client is closed") from error
            raise
