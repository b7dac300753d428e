"""`ModelInfer`: an inference from bytes to bytes, the same for a call of its own and for a message of a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial

from headwaiter_proto.inference import grpc_service_pb2

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.model.contract import Array
from headwaiter_server.pipeline import Pipeline
from headwaiter_server.rpc.crossing import Crossing, timing_trailers
from headwaiter_server.rpc.open_inference.form import Form, read_form
from headwaiter_server.rpc.open_inference.inputs import read_inputs
from headwaiter_server.rpc.open_inference.options import Options
from headwaiter_server.rpc.open_inference.outputs import OutputPlan, write_outputs
from headwaiter_server.rpc.open_inference.parameters import FINAL_RESPONSE
from headwaiter_server.rpc.open_inference.shared_memory import SharedMemory
from headwaiter_server.rpc.open_inference.tensors import answer_tensors, rows_of
from headwaiter_server.rpc.open_inference.text_call import TextCall
from headwaiter_server.rpc.open_inference.texts import TEXT_TASKS, answer_texts, read_texts
from headwaiter_server.rpc.open_inference.wire import InferRequest, id_field, open_request, write_response
from headwaiter_server.rpc.stream import Write
from headwaiter_server.scheduling.admission import Permit


class Inference:
    """Answers inferences."""

    def __init__(self, pipeline: Pipeline, shared_memory: SharedMemory) -> None:
        """Set up.

        Args:
            pipeline: Does the work.
            shared_memory: Where tensors are that do not travel.
        """
        self.pipeline = pipeline
        self._shared_memory = shared_memory

    async def infer(self, data: bytes, permit: Permit, crossing: Crossing) -> bytes:
        """Answer a call."""
        return await self.answer(open_request(data), permit, crossing)

    async def answer(
        self,
        request: InferRequest,
        permit: Permit,
        crossing: Crossing,
        write: Write | None = None,
        form: Form | None = None,
    ) -> bytes:
        """Answer a request.

        Args:
            request: The request.
            permit: Its place in the server.
            crossing: Told of it.
            write: Writes to the stream onto which the answer goes, if it goes onto one.
            form: The request's, where it has been read already.

        Returns:
            The answer; where a model's answers come in pieces on streams, the last one.

        Raises:
            RequestError: There is no answer.
        """
        pipeline = self.pipeline
        form = form or read_form(request.form)
        # From here on, as the inputs may take their time to read, in which the model may be exchanged.
        model = pipeline.claim(permit, form.model, form.version)
        signature = model.signature
        crossing.recognize(model, 1)
        asked = form.asked
        if asked.timeout_seconds is not None or asked.priority:
            crossing.hurry(asked.timeout_seconds, asked.priority)
        input_plans, output_plans = form.plan(signature)
        stretches = {
            plan.spec.name: stretch
            for plan in output_plans
            if plan.parameters is not None
            and (stretch := self._shared_memory.stretch(plan.parameters, plan.field)) is not None
        }
        inputs = await read_inputs(request, input_plans, self._shared_memory, permit)

        options = Options(asked.options)
        task = TEXT_TASKS.get(model.manifest.task)
        if task is None:
            rows = rows_of(inputs, signature)
            crossing.recognize(model, rows)
            names = [plan.spec.name for plan in output_plans]
            outcome = await answer_tensors(pipeline, permit, crossing.terms, model, inputs, names, options)
        else:
            texts = await read_texts(inputs, signature.max_batch_size)
            rows = len(next(iter(texts.values())))
            crossing.recognize(model, rows or 1)
            wanted = {plan.spec.name: plan.field for plan in output_plans}
            call = TextCall(pipeline, permit, crossing.terms, model, texts, options, wanted)
            if write is not None and signature.decoupled:
                if stretches:
                    raise InvalidRequestError(
                        wanted[next(iter(stretches))], "cannot go into shared memory in pieces, as it would on a stream"
                    )
                call.tell = partial(_write_piece, request, model, output_plans, write)
            outcome = await answer_texts(task, call)

        crossing.texts = rows
        crossing.recorded(outcome.timings)
        model = outcome.model
        described, contents = await write_outputs(
            output_plans, stretches, outcome.values, model.manifest.labels, rows=signature.max_batch_size > 0
        )
        final = True if write is not None else None
        header = [_answered_by(model.name, model.version, final=final), id_field(request.id), *described]
        if write is None:
            crossing.trailers = timing_trailers(outcome.timings, pipeline.clock() - crossing.terms.arrived)
        return write_response(header, contents, streamed=write is not None)


async def _write_piece(
    request: InferRequest, model: ServedModel, plans: Sequence[OutputPlan], write: Write, values: Mapping[str, Array]
) -> None:
    """Write an answer to a request onto its stream, which has others to come."""
    described, contents = await write_outputs(plans, {}, values, model.manifest.labels, rows=True)
    header = [_answered_by(model.name, model.version, final=False), id_field(request.id), *described]
    await write(write_response(header, contents, streamed=True))


@lru_cache(1024)
def _answered_by(name: str, version: int, *, final: bool | None) -> bytes:
    """What all answers of a model have in common.

    Args:
        name: Its name.
        version: Its version.
        final: Whether it is its request's last; None where there is just one.
    """
    response = grpc_service_pb2.ModelInferResponse(model_name=name, model_version=str(version))
    if final is not None:
        response.parameters[FINAL_RESPONSE].bool_param = final
    return response.SerializeToString()
