"""The blocking client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwaiter_proto.v1 import inference_pb2

from headwaiter import codec, methods
from headwaiter.errors import NotFoundError
from headwaiter.generating import Generating
from headwaiter.results import HealthStatus
from headwaiter.streaming import Outgoing

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from headwaiter.results import (
        ClassifyReply,
        EmbedReply,
        ModelInfo,
        RerankReply,
        StreamedReply,
        TagReply,
        TokenizeReply,
    )


class Client(Generating):
    """Calls a Headwaiter server and waits for the answer; threads may share one.

    It connects with the first call. Every method raises a subclass of `HeadwaiterError` when the call fails,
    and `RuntimeError` once the client is closed. `ClientBase` describes the arguments.

        with Client("127.0.0.1:8001") as client:
            reply = client.generate(["onomatopoeia", "headwaiter"], timeout_seconds=2)
    """

    def embed(
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
        """Turns each text into a vector.

        Args:
            texts: One text or several; a vector never depends on the others.
            model: Name of the model; may be left out when the server holds exactly one.
            version: Version of the model; 0 means the one that serves by default.
            truncate: Cut a text over the model's limit at its end; without it such a text is an error.
            prompt: Name of one of the model's prompts, which is put before each text; "" for none, None for the
                model's default.
            dimensions: How many numbers of each vector, for models that are trained to be cut so; 0 means all.
            normalize: Whether vectors get length 1; None for what the model's do.
            timeout_seconds: Deadline of this call; None takes the client's.
            metadata: gRPC metadata of this call, such as `headwaiter-priority`, or a `traceparent`.

        Returns:
            The vectors in the order of the texts, how the texts were read, and where the time went.
        """
        request = codec.embed_request(
            texts,
            model=model,
            version=version,
            truncate=truncate,
            prompt=prompt,
            dimensions=dimensions,
            normalize=normalize,
        )
        return self._call(methods.EMBED, request, timeout_seconds, metadata)

    def embed_stream(
        self,
        texts: Iterable[str | Sequence[str]],
        *,
        model: str = "",
        version: int = 0,
        truncate: bool = False,
        prompt: str | None = None,
        dimensions: int = 0,
        normalize: bool | None = None,
        timeout_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Generator[StreamedReply, None, None]:
        """Embeds any number of texts over one call, a few messages ahead of the results.

        The input is read, from a thread of its own, as results are taken; both may be of any length. An item that
        is refused has an error for a result, and the others go on.

        Args:
            texts: Items of one text or several (a few dozen are a good size); each is one message.
            model: Name of the model; may be left out when the server holds exactly one.
            version: Version of the model; 0 means the one that serves by default.
            truncate: Cut a text over the model's limit at its end; without it such a text is an error.
            prompt: Name of one of the model's prompts, which is put before each text; "" for none, None for the
                model's default.
            dimensions: How many numbers of each vector, for models that are trained to be cut so; 0 means all.
            normalize: Whether vectors get length 1; None for what the model's do.
            timeout_seconds: Deadline of the whole stream; None for none, however long the client's is.
            metadata: gRPC metadata of this call, such as `headwaiter-priority`, or a `traceparent`.

        Yields:
            What came of each item, in the order of the items.

        Raises:
            HeadwaiterError: The stream has ended early, after what had been answered was yielded. What the input
                raises ends it, too.
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

        yield from self._stream(methods.EMBED_STREAM, Outgoing(texts, request), timeout_seconds, metadata)

    def classify(
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
        """Scores each text, or pair of texts, for each label of the model.

        Args:
            texts: One text or several.
            second_texts: The second text of each pair, for models that read pairs; as many as `texts`, or none.
            model: Name of the model; may be left out when the server holds exactly one.
            version: Version of the model; 0 means the one that serves by default.
            truncate: Cut a text over the model's limit, of a pair the longer one; without it that is an error.
            raw_scores: Give the model's raw scores (logits) instead of probabilities.
            timeout_seconds: Deadline of this call; None takes the client's.
            metadata: gRPC metadata of this call, such as `headwaiter-priority`, or a `traceparent`.

        Returns:
            The model's labels and, in the order of the texts, a score for each.
        """
        request = codec.classify_request(
            texts, second_texts, model=model, version=version, truncate=truncate, raw_scores=raw_scores
        )
        return self._call(methods.CLASSIFY, request, timeout_seconds, metadata)

    def tag(
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
        """Labels stretches of each text: names, places, parts of speech.

        Args:
            texts: One text or several.
            model: Name of the model; may be left out when the server holds exactly one.
            version: Version of the model; 0 means the one that serves by default.
            truncate: Cut a text over the model's limit at its end; without it such a text is an error.
            raw_scores: Give the model's raw scores (logits) instead of probabilities.
            aggregate: Make one span of neighbouring tokens of one entity, and leave out the others; without it each
                token is a span of its own.
            timeout_seconds: Deadline of this call; None takes the client's.
            metadata: gRPC metadata of this call, such as `headwaiter-priority`, or a `traceparent`.

        Returns:
            The spans in the order of the texts.
        """
        request = codec.tag_request(
            texts, model=model, version=version, truncate=truncate, raw_scores=raw_scores, aggregate=aggregate
        )
        return self._call(methods.TAG, request, timeout_seconds, metadata)

    def rerank(
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
        """Orders texts by how well they answer a query.

        Args:
            query: What is looked for.
            texts: Where it may stand; one text or several.
            model: Name of the model; may be left out when the server holds exactly one.
            version: Version of the model; 0 means the one that serves by default.
            truncate: Cut a text where it and the query together are over the model's limit; without it that is an
                error.
            raw_scores: Give the model's raw scores (logits) instead of probabilities.
            top_n: The most texts to return; 0 means all.
            timeout_seconds: Deadline of this call; None takes the client's.
            metadata: gRPC metadata of this call, such as `headwaiter-priority`, or a `traceparent`.

        Returns:
            The texts' indices and scores, best first.
        """
        request = codec.rerank_request(
            query, texts, model=model, version=version, truncate=truncate, raw_scores=raw_scores, top_n=top_n
        )
        return self._call(methods.RERANK, request, timeout_seconds, metadata)

    def tokenize(
        self,
        texts: str | Sequence[str],
        *,
        model: str = "",
        version: int = 0,
        timeout_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> TokenizeReply:
        """Turns each text into the tokens that a model would read; nothing runs.

        Args:
            texts: One text or several; they may be longer than the model's limit.
            model: Name of the model; may be left out when the server holds exactly one.
            version: Version of the model; 0 means the one that serves by default.
            timeout_seconds: Deadline of this call; None takes the client's.
            metadata: gRPC metadata of this call, such as `headwaiter-priority`, or a `traceparent`.

        Returns:
            The tokens of each text, in the order of the texts.
        """
        request = codec.tokenize_request(texts, model=model, version=version)
        return self._call(methods.TOKENIZE, request, timeout_seconds, metadata)

    def models(self, *, timeout_seconds: float | None = None) -> tuple[ModelInfo, ...]:
        """Lists the models that are loaded, sorted by name, then version."""
        return self._call(methods.LIST_MODELS, inference_pb2.ListModelsRequest(), timeout_seconds)

    def model(self, name: str = "", version: int = 0, *, timeout_seconds: float | None = None) -> ModelInfo:
        """Describes one model; "" and 0 mean what they mean in `generate`."""
        request = codec.get_model_request(model=name, version=version)
        return self._call(methods.GET_MODEL, request, timeout_seconds)

    def health(self, model: str = "", *, timeout_seconds: float | None = None) -> HealthStatus:
        """Asks how a model, or with "" the server as a whole, says it is."""
        try:
            return self._call(methods.CHECK_HEALTH, codec.health_request(model=model), timeout_seconds)
        except NotFoundError:
            return HealthStatus.SERVICE_UNKNOWN
