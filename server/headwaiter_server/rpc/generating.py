"""`Generate` and `GenerateStream` on raw bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from headwaiter_proto.v1 import inference_pb2

from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.pipeline import GenerationPiece, GenerationRequest, Pipeline, Timings
from headwaiter_server.rpc import generation
from headwaiter_server.rpc.crossing import Crossing, first_token_trailers
from headwaiter_server.rpc.messages import parse, timings_message
from headwaiter_server.rpc.stream import Write
from headwaiter_server.rpc.wire import check_field_counts
from headwaiter_server.scheduling.admission import Permit


class GenerationMethods:
    """The methods of `InferenceService` that generate."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def generate(self, data: bytes, permit: Permit, crossing: Crossing) -> bytes:
        """Generate from each text."""
        pipeline = self._pipeline
        request, _ = self._open(data, permit, crossing)
        reply = await pipeline.generate(permit, crossing.terms, request)

        def write() -> bytes:
            seconds = pipeline.clock() - crossing.terms.arrived
            return generation.write_reply(reply, seconds).SerializeToString()

        answer = await pipeline.read(crossing.terms.spending, write, len(reply.texts), reply.characters)
        crossing.texts = len(request.texts)
        crossing.recorded(reply.timings)
        return answer

    async def generate_stream(self, data: bytes, permit: Permit, crossing: Crossing, write: Write) -> None:
        """Generate from each text, and write it piece by piece."""
        pipeline = self._pipeline
        request, model = self._open(data, permit, crossing)
        introduced = False

        async def take(pieces: Sequence[GenerationPiece], timings: Timings | None) -> None:
            nonlocal introduced
            for piece in pieces:
                message = generation.write_piece(piece)
                if not introduced:
                    introduced = True
                    generation.introduce(message, model)
                if timings is not None and piece is pieces[-1]:
                    seconds = pipeline.clock() - crossing.terms.arrived
                    message.timings.CopyFrom(timings_message(timings, seconds))
                await write(message.SerializeToString())

        timings = await pipeline.generate_stream(permit, crossing.terms, request, take)
        crossing.texts = len(request.texts)
        crossing.recorded(timings)
        crossing.trailers = first_token_trailers(crossing)

    def _open(self, data: bytes, permit: Permit, crossing: Crossing) -> tuple[GenerationRequest, ServedModel]:
        """What a message asks for, and of whom: of the version that answers, which is kept until the call is over."""
        check_field_counts(data, generation.COUNTED, self._pipeline.max_texts)
        request = generation.read_request(parse(inference_pb2.GenerateRequest, data))
        model = self._pipeline.claim(permit, request.model, request.version)
        crossing.recognize(model, len(request.texts))
        return replace(request, model=model.name, version=model.version), model
