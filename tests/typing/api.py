"""What users of the client may rely on, as type checkers see it. Checked by mypy, never run."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

from headwaiter import (
    SERVICE_CONFIG,
    TLS,
    AsyncClient,
    ChannelOptions,
    Client,
    FinishReason,
    GenerateReply,
    GenerationResult,
    HealthStatus,
    InternalServerError,
    InvalidRequestError,
    ModelInfo,
    OverloadedError,
    ServerUnreachableError,
    Task,
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
        assert_type(client.generate("a").version, int)
        assert_type(client.models(), tuple[ModelInfo, ...])
        assert_type(client.model("m").limits.max_source_tokens, int)
        assert_type(client.model().task, Task)
        assert_type(client.health("m"), HealthStatus)
        client.generate(7)  # type: ignore[arg-type]
        client.generate("a", "m")  # type: ignore[call-arg]


async def awaited() -> None:
    """The asyncio client."""
    async with AsyncClient() as client:
        assert_type(client, AsyncClient)
        assert_type(await client.generate(("a", "b")), GenerateReply)
        assert_type(await client.models(), tuple[ModelInfo, ...])
        assert_type(await client.model(version=2), ModelInfo)
        assert_type(await client.health(), HealthStatus)


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
