"""The client for asyncio: calls, streams and cancelling them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from .checks import PATIENCE_SECONDS, Server, expect, shows, slow, tensor, text


def run(server: Server, check: Callable[[InferenceServerClient], Awaitable[str]]) -> str:
    """Run a check with a client, on a loop of its own."""

    async def main() -> str:
        async with InferenceServerClient(server.grpc) as client:
            return await asyncio.wait_for(check(client), PATIENCE_SECONDS)

    return asyncio.run(main())


def floats(number: float) -> InferInput:
    """An input of the model `times`."""
    return tensor("X", np.array([[number]], dtype=np.float32))


@shows("ModelInfer")
def check_calls(server: Server) -> str:
    """50 calls at once, each with its own answer."""

    async def check(client: InferenceServerClient) -> str:
        calls = [client.infer("times", [floats(number)], request_id=str(number)) for number in range(50)]
        for number, answer in enumerate(await asyncio.gather(*calls)):
            assert (answer.as_numpy("Y")[0, 0], answer.get_response().id) == (2 * number, str(number))
        vectors = (await client.infer("minilm", [text("soup")], compression_algorithm="gzip")).as_numpy("embedding")
        return f"50 of 50; embedding {list(vectors.shape)}"

    return run(server, check)


@shows("ModelInfer", "errors")
def check_errors(server: Server) -> str:
    """Errors are exceptions with a status."""

    async def check(client: InferenceServerClient) -> str:
        try:
            await client.infer("nobody", [floats(1)])
        except InferenceServerException as error:
            return expect(error, "NOT_FOUND", "nobody")
        raise AssertionError("nobody answered")

    return run(server, check)


@shows("ModelInfer", "cancellation")
def check_cancellation(server: Server) -> str:
    """A task that is cancelled ends its call on the server as well."""
    labels = {"method": "inference.GRPCInferenceService/ModelInfer", "model": "slow", "code": "CANCELLED"}

    async def check(client: InferenceServerClient) -> str:
        before = server.metric("headwaiter_requests_total", **labels)
        call = asyncio.create_task(client.infer("slow", slow()))
        await asyncio.to_thread(server.wait_for_metric, 0, "headwaiter_calls_held")
        call.cancel()
        wait = partial(server.wait_for_metric, before, "headwaiter_requests_total", **labels)
        return f"headwaiter_requests_total{{code=CANCELLED}} +{await asyncio.to_thread(wait) - before:.0f}"

    return run(server, check)


async def _requests() -> AsyncIterator[dict[str, Any]]:
    for number in range(50):
        yield {"model_name": "times", "inputs": [floats(number)], "request_id": str(number)}
    yield {"model_name": "nobody", "inputs": [floats(0)]}
    yield {"model_name": "minilm", "inputs": [text("soup")], "request_id": "text"}


@shows("ModelStreamInfer")
def check_stream(server: Server) -> str:
    """Requests over a stream, an error among them, in their order."""

    async def check(client: InferenceServerClient) -> str:
        answers = [answer async for answer in client.stream_infer(_requests())]
        assert len(answers) == 52
        for number, (result, error) in enumerate(answers[:50]):
            assert error is None
            assert (result.as_numpy("Y")[0, 0], result.get_response().id) == (2 * number, str(number))
        assert "nobody" in answers[50][1].message()
        assert answers[51][0].as_numpy("embedding").shape == (1, 384)
        return "51 results and 1 error_message in order"

    return run(server, check)


@shows("ModelStreamInfer", "cancellation")
def check_stream_cancellation(server: Server) -> str:
    """A stream that is cancelled ends its requests on the server as well."""
    labels = {"model": "slow", "code": "CANCELLED"}

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": "slow", "inputs": slow()}

    async def check(client: InferenceServerClient) -> str:
        before = server.metric("headwaiter_requests_total", **labels)
        answers = client.stream_infer(requests())
        first = asyncio.ensure_future(anext(aiter(answers)))
        await asyncio.to_thread(server.wait_for_metric, 0, "headwaiter_calls_held")
        answers.cancel()
        await asyncio.wait([first])
        assert first.cancelled() or first.exception() is not None
        wait = partial(server.wait_for_metric, before, "headwaiter_requests_total", **labels)
        return f"headwaiter_requests_total{{code=CANCELLED}} +{await asyncio.to_thread(wait) - before:.0f}"

    return run(server, check)


@shows("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics")
def check_questions(server: Server) -> str:
    """What there is, asked asynchronously."""

    async def check(client: InferenceServerClient) -> str:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("minilm")
        about = await client.get_server_metadata(as_json=True)
        metadata = await client.get_model_metadata("simple", as_json=True)
        config = (await client.get_model_config("simple", as_json=True))["config"]
        assert {each["name"] for each in metadata["inputs"]} == {each["name"] for each in config["input"]}
        statistics = await client.get_inference_statistics("simple", as_json=True)
        assert statistics["model_stats"][0]["name"] == "simple"
        return f"{about['name']} {about['version']}"

    return run(server, check)


@shows("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")
def check_control(server: Server) -> str:
    """Unload a model and load it again."""

    async def check(client: InferenceServerClient) -> str:
        await client.unload_model("times")
        assert not await client.is_model_ready("times")
        await client.load_model("times")
        assert await client.is_model_ready("times")
        index = await client.get_model_repository_index(as_json=True)
        state = {each["name"]: each.get("state") for each in index["models"]}
        return f"times: {state['times']}"

    return run(server, check)
