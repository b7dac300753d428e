"""The asyncio client: the blocking one's methods, awaited."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from headwaiter_proto.v1 import inference_pb2

from headwaiter import codec, methods
from headwaiter.errors import NotFoundError
from headwaiter.generating import AsyncGenerating
from headwaiter.results import HealthStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence

    from headwaiter.results import (
        ClassifyReply,
        EmbedReply,
        ModelInfo,
        RerankReply,
        StreamedReply,
        TagReply,
        TokenizeReply,
    )


class AsyncClient(AsyncGenerating):
    """Calls a Headwaiter server from asyncio; tasks of one event loop may share one.

    It connects with the first call. Every method raises a subclass of `HeadwaiterError` when the call fails,
    and `RuntimeError` once the client is closed. Cancelling the task that awaits a call cancels the call on
    the server. `ClientBase` describes the arguments.

        async with AsyncClient("127.0.0.1:8001") as client:
            reply = await client.generate(["onomatopoeia", "headwaiter"], timeout_seconds=2)
    """

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
