"""Generation with a real scheduler behind a real socket: the same tokens however they are asked for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, cast

import grpc
import pytest
from fakes import EchoModel, Turnstile, dice
from headwaiter_proto.v1 import bundle_pb2, inference_pb2
from headwaiter_server.encoding import Encoding
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.metrics import Metrics
from headwaiter_server.pipeline import Pipeline
from headwaiter_server.rpc.edge import Edge
from headwaiter_server.rpc.inference import SERVICE_NAME, InferenceService
from headwaiter_server.rpc.server import GrpcServer
from headwaiter_server.scheduling.admission import Admission

from .scheduler import Scheduler, scheduler

Request = inference_pb2.GenerateRequest
Message = inference_pb2.GenerateStreamResponse
METHOD = f"/{SERVICE_NAME}/Generate"


class NumberTokenizer:
    """Reads a text of numbers as those token ids."""

    detokenizing: ClassVar[dict[str, object]] = {}

    def encode_all(self, texts: Sequence[str], field: str) -> list[Encoding]:
        return [Encoding([int(word) for word in text.split()]) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f"{number} " for number in ids)

    def written(self, ids: Sequence[int]) -> list[str]:
        return [f"<{number}>" for number in ids]


@asynccontextmanager
async def serving(model: EchoModel, *, rows: int = 8) -> AsyncIterator[tuple[grpc.aio.Channel, Scheduler]]:
    """Serve a model."""
    async with scheduler(model, rows=rows) as parts:
        manifest = bundle_pb2.Manifest(task=bundle_pb2.TASK_GENERATE, limits=bundle_pb2.Limits(max_new_tokens=30))
        catalog, metrics = Catalog(), Metrics()
        catalog.add(ServedModel("m", 1, "fp32", manifest, cast("Any", NumberTokenizer()), parts.lane))
        service = InferenceService(Pipeline(catalog, parts.dispatcher, metrics, 100))
        edge = Edge(Admission(1000, 1 << 24, 1000), metrics, parts.dispatcher.clock)
        server = GrpcServer([service.handlers(edge)], [SERVICE_NAME], max_message_bytes=1 << 20, max_streams=1000)
        address = server.listen("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                yield channel, parts
        finally:
            await server.stop(0)


async def whole(channel: grpc.aio.Channel, request: Request) -> list[inference_pb2.Generation]:
    """What `Generate` answers."""
    method: Any = channel.unary_unary(
        METHOD,
        request_serializer=Request.SerializeToString,
        response_deserializer=inference_pb2.GenerateResponse.FromString,
    )
    return list((await method(request)).generations)


def stream(channel: grpc.aio.Channel, request: Request) -> Any:  # noqa: ANN401 - a call
    """What `GenerateStream` answers."""
    return channel.unary_stream(
        f"{METHOD}Stream", request_serializer=Request.SerializeToString, response_deserializer=Message.FromString
    )(request)


async def added_up(channel: grpc.aio.Channel, request: Request) -> list[inference_pb2.Generation]:
    """What its pieces add up to."""
    found = [inference_pb2.Generation() for _ in request.texts]
    async for piece in stream(channel, request):
        one = found[piece.index]
        one.text += piece.text
        one.token_ids.extend(piece.token_ids)
        one.token_seconds.extend(piece.token_seconds)
        one.logprobs.extend(piece.logprobs)
        one.MergeFrom(piece.finished)
    return found


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"logprobs": 3},
    {"stop": ["7 "], "stop_token_ids": [9]},
    {"temperature": 1.0, "seed": 5, "top_k": 20},
    {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 6, "logprobs": 0},
    {"num_beams": 3, "num_return_sequences": 2},
    {"attention": True},
)


def comparable(generations: list[inference_pb2.Generation]) -> list[inference_pb2.Generation]:
    """Without what is another each time."""
    for each in generations:
        assert len(each.token_seconds) in (0, len(each.token_ids))
        each.ClearField("token_seconds")
    return generations


@pytest.mark.parametrize("decoder_only", [False, True], ids=["encoder-decoder", "decoder-only"])
async def test_answers_are_the_same_alone_in_any_mix_and_in_pieces(decoder_only: bool) -> None:  # noqa: FBT001 - of the table
    """Whatever was asked for, whoever else is there: a text's tokens, text, scores and log-probabilities."""
    chance = random.Random(7)
    options = [each for each in OPTIONS if not (decoder_only and "attention" in each)]
    model = EchoModel(decoder_only=decoder_only, distribution=dice(3, end=1.0))
    async with serving(model, rows=4) as (channel, _):
        requests = [
            Request(texts=[" ".join(str(chance.randint(10, 90)) for _ in range(chance.randint(1, 9)))], **each)
            for each in options
            for _ in range(4)
        ]
        alone = [comparable(await whole(channel, request)) for request in requests]
        mixed = await asyncio.gather(
            *(ask(channel, request) for request in requests for ask in (whole, added_up)),
        )
        for index, expected in enumerate(alone):
            assert comparable(mixed[2 * index]) == expected
            assert comparable(mixed[2 * index + 1]) == expected
        together = Request(texts=[request.texts[0] for request in requests[-8:-4]])
        together.MergeFrom(Request(**options[-2]))
        assert comparable(await whole(channel, together)) == [each for (each,) in alone[-8:-4]]
        assert len({tuple(each.token_ids) for (each,) in alone}) > len(requests) // 2


async def test_seeds_give_the_same_tokens_again() -> None:
    """The one that the server drew, sent back; equal texts of one call differ without a seed, and not with one."""
    async with serving(EchoModel(distribution=dice(4))) as (channel, _):
        drawn = await whole(channel, Request(texts=["20 21"] * 3, temperature=1.0))
        assert len({tuple(each.token_ids) for each in drawn}) == 3
        for each in drawn:
            again = await added_up(channel, Request(texts=["20 21"] * 2, temperature=1.0, seed=each.seed))
            assert [list(other.token_ids) for other in again] == [list(each.token_ids)] * 2
            assert [other.seed for other in again] == [each.seed] * 2


async def test_pieces_come_with_the_steps_and_breaking_out_ends_them() -> None:
    """Each token is told before the next is computed; a caller that goes leaves its row in the next iteration."""
    steps = Turnstile()
    async with serving(EchoModel(on_step=steps)) as (channel, parts), asyncio.timeout(20):
        call = stream(channel, Request(texts=["20 21 22 23 24 25"]))
        for number in range(20, 23):
            await steps.entered()
            if number > 20:
                piece = await call.read()
                assert list(piece.token_ids) == [number - 1]
            steps.let()
        (text,) = parts.lane._batches[0].sequences
        call.cancel()
        # The step that is held, if it has begun, is the last one that the text is in.
        while not text.entry.call.over:
            await asyncio.sleep(0)
        steps.let(100)
        while parts.lane.running:
            await asyncio.sleep(0)
        assert len(parts.model.steps) <= 4
