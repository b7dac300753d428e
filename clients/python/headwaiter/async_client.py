"""The asyncio client: the blocking one's methods, awaited."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar, cast

import grpc
import grpc.aio
from headwaiter_proto.v1 import inference_pb2

from headwaiter import codec, methods
from headwaiter.base import ClientBase
from headwaiter.errors import CallCancelledError, NotFoundError
from headwaiter.results import HealthStatus
from headwaiter.status import error_from_rpc, told_by_server
from headwaiter.streaming import MESSAGES_IN_FLIGHT, InOrder, each

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from headwaiter.connection import Options
    from headwaiter.methods import RequestT, ResponseT, ResultT, StreamMethod, UnaryMethod
    from headwaiter.results import (
        ClassifyReply,
        EmbedReply,
        GenerateReply,
        ModelInfo,
        RerankReply,
        StreamedReply,
        TagReply,
        TokenizeReply,
    )

Item = TypeVar("Item")


class AsyncClient(ClientBase[grpc.aio.Channel]):
    """Calls a Headwaiter server from asyncio; tasks of one event loop may share one.

    It connects with the first call. Every method raises a subclass of `HeadwaiterError` when the call fails,
    and `RuntimeError` once the client is closed. Cancelling the task that awaits a call cancels the call on
    the server. `ClientBase` describes the arguments.

        async with AsyncClient("127.0.0.1:8001") as client:
            reply = await client.generate(["onomatopoeia", "headwaiter"], timeout_seconds=2)
    """

    async def generate(
        self,
        texts: str | Sequence[str],
        *,
        model: str = "",
        version: int = 0,
        max_new_tokens: int = 0,
        timeout_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> GenerateReply:
        """Generates a text for each input text; `Client.generate` describes the arguments."""
        request = codec.generate_request(texts, model=model, version=version, max_new_tokens=max_new_tokens)
        return await self._call(methods.GENERATE, request, timeout_seconds, metadata)

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: str = "",
        version: int = 0,
        truncate: bool = False,
        prompt: str | None = None,
        dimensions: int = 0,
        normalize: bool | None = None,
        timeout_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> EmbedReply:
        """Turns each text into a vector; `Client.embed` describes the arguments."""
        request = codec.embed_request(
            texts,
            model=model,
            version=version,
            truncate=truncate,
            prompt=prompt,
            dimensions=dimensions,
            normalize=normalize,
        )
        return await self._call(methods.EMBED, request, timeout_seconds, metadata)

    async def embed_stream(
        self,
        texts: Iterable[str | Sequence[str]] | AsyncIterable[str | Sequence[str]],
        *,
        model: str = "",
        version: int = 0,
        truncate: bool = False,
        prompt: str | None = None,
        dimensions: int = 0,
        normalize: bool | None = None,
        timeout_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[StreamedReply, None]:
        """Embeds any number of texts over one call; `Client.embed_stream` describes the arguments.

        The input may be an asynchronous iterator as well. Leave the loop early only under `contextlib.aclosing`.
        """

        def request(index: int, item: str | Sequence[str]) -> inference_pb2.EmbedStreamRequest:
            return codec.stream_request(
                index,
                codec.embed_request(
                    item,
                    model=model,
                    version=version,
                    truncate=truncate,
                    prompt=prompt,
                    dimensions=dimensions,
                    normalize=normalize,
                ),
            )

        async with aclosing(self._stream(methods.EMBED_STREAM, texts, request, timeout_seconds, metadata)) as replies:
            async for reply in replies:
                yield reply

    async def classify(
        self,
        texts: str | Sequence[str],
        second_texts: str | Sequence[str] = (),
        *,
        model: str = "",
        version: int = 0,
        truncate: bool = False,
        raw_scores: bool = False,
        timeout_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ClassifyReply:
        """Scores each text, or pair of texts, for each label; `Client.classify` describes the arguments."""
        request = codec.classify_request(
            texts, second_texts, model=model, version=version, truncate=truncate, raw_scores=raw_scores
        )
        return await self._call(methods.CLASSIFY, request, timeout_seconds, metadata)

    async def tag(
        self,
        texts: str | Sequence[str],
        *,
        model: str = "",
        version: int = 0,
        truncate: bool = False,
        raw_scores: bool = False,
        aggregate: bool = True,
        timeout_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> TagReply:
        """Labels stretches of each text; `Client.tag` describes the arguments."""
        request = codec.tag_request(
            texts, model=model, version=version, truncate=truncate, raw_scores=raw_scores, aggregate=aggregate
        )
        return await self._call(methods.TAG, request, timeout_seconds, metadata)

    async def rerank(
        self,
        query: str,
        texts: str | Sequence[str],
        *,
        model: str = "",
        version: int = 0,
        truncate: bool = False,
        raw_scores: bool = False,
        top_n: int = 0,
        timeout_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> RerankReply:
        """Orders texts by how well they answer a query; `Client.rerank` describes the arguments."""
        request = codec.rerank_request(
            query, texts, model=model, version=version, truncate=truncate, raw_scores=raw_scores, top_n=top_n
        )
        return await self._call(methods.RERANK, request, timeout_seconds, metadata)

    async def tokenize(
        self,
        texts: str | Sequence[str],
        *,
        model: str = "",
        version: int = 0,
        timeout_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> TokenizeReply:
        """Turns each text into the tokens that a model would read; `Client.tokenize` describes the arguments."""
        request = codec.tokenize_request(texts, model=model, version=version)
        return await self._call(methods.TOKENIZE, request, timeout_seconds, metadata)

    async def models(self, *, timeout_seconds: float | None = None) -> tuple[ModelInfo, ...]:
        """Lists the models that are loaded, sorted by name, then version."""
        return await self._call(methods.LIST_MODELS, inference_pb2.ListModelsRequest(), timeout_seconds)

    async def model(self, name: str = "", version: int = 0, *, timeout_seconds: float | None = None) -> ModelInfo:
        """Describes one model; "" and 0 mean what they mean in `generate`."""
        request = codec.get_model_request(model=name, version=version)
        return await self._call(methods.GET_MODEL, request, timeout_seconds)

    async def health(self, model: str = "", *, timeout_seconds: float | None = None) -> HealthStatus:
        """Asks how a model, or with "" the server as a whole, says it is."""
        try:
            return await self._call(methods.CHECK_HEALTH, codec.health_request(model=model), timeout_seconds)
        except NotFoundError:
            return HealthStatus.SERVICE_UNKNOWN

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

    def _check_cancelled(self) -> None:
        """Tell a closed client from a cancelled task.

        grpc.aio ends the calls of a closed channel as if their tasks had been cancelled. Only a task that was
        cancelled itself may see that: anyone else would swallow or spread a cancellation nobody asked for.
        """
        task = asyncio.current_task()
        if self._closed and task is not None and not task.cancelling():
            raise CallCancelledError("the client was closed during the call") from None
