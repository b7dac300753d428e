"""The load generator of the benchmark of generation, against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from headwaiter_proto.v1 import inference_pb2

from benchmarks.encoders.outcomes import UNAVAILABLE
from benchmarks.generation.load import closed_loop, encode, open_loop
from benchmarks.generation.workloads import Request

SERVICE = "headwaiter.v1.InferenceService"
_PATIENT_SECONDS = 60.0
# What the server writes for a text: its words, as numbers.
REQUESTS = [encode("", Request(text, 2, 2)) for text in ("3 4", "5 6")]

Context = grpc.aio.ServicerContext[inference_pb2.GenerateRequest, object]


class Echo:
    """Goes on with each text as the text says; every token after the first comes half a second later."""

    def __init__(self) -> None:
        self.held = self.most = 0
        self.refuse = False

    async def generate(self, request: inference_pb2.GenerateRequest, _context: Context) -> object:
        self.held += 1
        self.most = max(self.most, self.held)
        await asyncio.sleep(0)
        self.held -= 1
        ids = [int(word) for word in request.texts[0].split()]
        seconds = [0.5 * number for number in range(len(ids))]
        return inference_pb2.GenerateResponse(
            generations=[inference_pb2.Generation(token_ids=ids, token_seconds=seconds)]
        )

    async def generate_stream(self, request: inference_pb2.GenerateRequest, context: Context) -> AsyncIterator[object]:
        if self.refuse:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "full")
        for word in request.texts[0].split():
            yield inference_pb2.GenerateStreamResponse(token_ids=[int(word)])
        yield inference_pb2.GenerateStreamResponse()


@asynccontextmanager
async def _serving(echo: Echo) -> AsyncIterator[str]:
    server = grpc.aio.server()
    read = inference_pb2.GenerateRequest.FromString
    methods = {
        "Generate": grpc.unary_unary_rpc_method_handler(
            echo.generate, read, inference_pb2.GenerateResponse.SerializeToString
        ),
        "GenerateStream": grpc.unary_stream_rpc_method_handler(
            echo.generate_stream, read, inference_pb2.GenerateStreamResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_a_closed_loop_takes_the_requests_in_turn_and_believes_the_server_when_tokens_came() -> None:
    async with _serving(echo := Echo()) as target:
        calls, refused = await closed_loop(target, REQUESTS, 1, _PATIENT_SECONDS, count=5)
    assert [call.request for call in calls] == [0, 1, 0, 1, 0]
    assert [call.token_ids for call in calls[:2]] == [[3, 4], [5, 6]]
    assert [later - earlier for earlier, later in (call.token_times for call in calls)] == [0.5] * 5
    assert refused == 0
    assert echo.most == 1


async def test_a_closed_loop_of_streams_notes_each_token_when_its_piece_comes() -> None:
    async with _serving(Echo()) as target:
        calls, _ = await closed_loop(target, REQUESTS, 2, _PATIENT_SECONDS, count=4, streamed=True)
    assert sorted(call.token_ids for call in calls) == [[3, 4], [3, 4], [5, 6], [5, 6]]
    for call in calls:
        first, second = call.token_times
        assert call.sent < first <= second <= call.ended


async def test_an_open_loop_begins_each_call_when_it_is_due_whatever_becomes_of_the_others() -> None:
    echo = Echo()
    echo.refuse = True
    async with _serving(echo) as target:
        calls = await open_loop(target, REQUESTS, [0.0, 0.01, 0.02])
    assert [call.code for call in calls] == [UNAVAILABLE] * 3
    assert [call.due for call in calls] == [0.0, 0.01, 0.02]
    # Timers tick in milliseconds.
    assert all(call.sent > call.due - 0.002 for call in calls)
    assert [call.request for call in calls] == [0, 1, 0]
