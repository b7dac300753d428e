"""What users of the client may rely on, as type checkers see it. Checked by mypy, never run."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

from headwaiter import (
    SERVICE_CONFIG,
    TLS,
    AsyncClient,
    AsyncGenerationStream,
    Attention,
    ChannelOptions,
    ClassifyReply,
    Client,
    EmbeddingInfo,
    EmbedReply,
    FinishReason,
    GenerateReply,
    GenerationPiece,
    GenerationResult,
    GenerationStream,
    GraphKind,
    HeadwaiterError,
    HealthStatus,
    Hypothesis,
    InternalServerError,
    InvalidRequestError,
    ModelInfo,
    OverloadedError,
    RankedText,
    RerankReply,
    ServerUnreachableError,
    Span,
    StreamedReply,
    TagReply,
    Task,
    Tokenization,
    TokenizeReply,
    TokenLogprob,
    Vectors,
)


def blocking() -> None:
    """The blocking client."""
    with Client(
        "dns:///headwaiter.example:8001",
        timeout_seconds=2,
        tls=TLS(ca_file=Path("ca.pem"), server_name="headwaiter.example"),
        token="token",  # noqa: S106 - an example
        retries=False,
        channel_options=ChannelOptions(keepalive_seconds=600, wait_for_ready=True),
    ) as client:
        assert_type(client, Client)
        assert_type(client.target, str)
        reply = client.generate(["a", "b"], model="m", version=1, max_new_tokens=5, timeout_seconds=0.5)
        assert_type(reply, GenerateReply)
        assert_type(reply.generations, tuple[GenerationResult, ...])
        assert_type(reply.generations[0].token_ids, tuple[int, ...])
        assert_type(reply.generations[0].finish_reason, FinishReason)
        assert_type(reply.timings.queue_seconds, float)
        assert_type(client.generate("a", metadata={"headwaiter-priority": "1"}).version, int)
        assert_type(client.models(), tuple[ModelInfo, ...])
        assert_type(client.model("m").limits.max_source_tokens, int)
        assert_type(client.model().task, Task)
        assert_type(client.health("m"), HealthStatus)
        assert_type(client.model().graph_kind, GraphKind)
        assert_type(client.model().embedding, EmbeddingInfo | None)
        client.generate(7)  # type: ignore[arg-type]
        client.generate("a", "m")  # type: ignore[call-arg]


def generation(client: Client) -> None:
    """Options of generation, what they bring, and streams."""
    reply = client.generate(
        "a",
        temperature=0.5,
        top_k=40,
        top_p=0.9,
        repetition_penalty=1.1,
        seed=7,
        num_beams=4,
        num_return_sequences=2,
        length_penalty=1,
        stop=["\n"],
        stop_token_ids=(3,),
        logprobs=5,
        attention=True,
    )
    assert_type(reply.generations[0].logprobs, tuple[TokenLogprob, ...])
    assert_type(reply.generations[0].alternatives, tuple[Hypothesis, ...])
    assert_type(reply.generations[0].attention, Attention | None)
    assert_type(reply.generations[0].score, float | None)
    assert_type(reply.generations[0].seed, int | None)
    with client.generate_stream(["a", "b"], stop="end") as stream:
        assert_type(stream, GenerationStream)
        for piece in stream:
            assert_type(piece, GenerationPiece)
            assert_type(piece.finished, GenerationResult | None)
        assert_type(stream.reply(), GenerateReply)
    client.generate("a", logprobs="5")  # type: ignore[arg-type]


def encoders(client: Client) -> None:
    """Calls to encoders."""
    embedded = client.embed(["a", "b"], model="m", prompt="query", dimensions=64, normalize=True, truncate=True)
    assert_type(embedded, EmbedReply)
    assert_type(embedded.dimension, int)
    assert_type(embedded.reading.truncated, tuple[int, ...])
    for streamed in client.embed_stream(["a", ["b", "c"]], model="m"):
        assert_type(streamed, StreamedReply)
        assert_type(streamed.get(), EmbedReply)
        assert_type(streamed.error, HeadwaiterError | None)
    assert_type(client.classify("a", "b", raw_scores=True), ClassifyReply)
    assert_type(client.classify(["a"]).classifications[0].scores, tuple[float, ...])
    assert_type(client.tag("a", aggregate=False), TagReply)
    assert_type(client.tag("a").taggings[0].spans, tuple[Span, ...])
    assert_type(client.rerank("a", ["b", "c"], top_n=1), RerankReply)
    assert_type(client.rerank("a", ["b"]).ranking, tuple[RankedText, ...])
    assert_type(client.tokenize("a"), TokenizeReply)
    assert_type(client.tokenize("a").tokenizations, tuple[Tokenization, ...])
    assert_type(client.tokenize("a").timings.tokenize_seconds, float)
    assert_type(Vectors(b"", 3)[0], memoryview)
    client.embed_stream([7])  # type: ignore[list-item]


async def awaited() -> None:
    """The asyncio client."""
    async with AsyncClient() as client:
        assert_type(client, AsyncClient)
        assert_type(await client.generate(("a", "b")), GenerateReply)
        async with client.generate_stream("a", seed=1) as stream:
            assert_type(stream, AsyncGenerationStream)
            async for piece in stream:
                assert_type(piece, GenerationPiece)
            assert_type(await stream.reply(), GenerateReply)
        assert_type(await client.models(), tuple[ModelInfo, ...])
        assert_type(await client.model(version=2), ModelInfo)
        assert_type(await client.health(), HealthStatus)
        assert_type(await client.embed("a"), EmbedReply)
        async for streamed in client.embed_stream(["a"]):
            assert_type(streamed, StreamedReply)
        assert_type(await client.classify("a"), ClassifyReply)
        assert_type(await client.tag("a"), TagReply)
        assert_type(await client.rerank("a", "b"), RerankReply)
        assert_type(await client.tokenize("a"), TokenizeReply)


def failures(client: Client) -> str:
    """The fields of the exceptions."""
    try:
        client.generate("a")
    except InvalidRequestError as error:
        return error.field + error.description
    except OverloadedError as error:
        assert_type(error.retry_after_seconds, float | None)
    except ServerUnreachableError as error:
        return error.target + error.reason
    except InternalServerError as error:
        assert_type(error.error_id, str | None)
    return assert_type(SERVICE_CONFIG, str)
