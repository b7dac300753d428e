"""Models of tensors: inputs to arrays, which pass through the pipeline as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.model.contract import Array, Signature
from headwaiter_server.pipeline import Pipeline, TensorRequest
from headwaiter_server.rpc.open_inference.elements import INLINE_ELEMENTS
from headwaiter_server.rpc.open_inference.inputs import Input
from headwaiter_server.rpc.open_inference.options import Options
from headwaiter_server.rpc.open_inference.outputs import Outcome
from headwaiter_server.scheduling.admission import Permit
from headwaiter_server.scheduling.calls import Terms

# What Python takes for an element of BYTES beside its bytes, in all its forms.
_ELEMENT_BYTES = 128


def rows_of(inputs: Mapping[str, Input], signature: Signature) -> int:
    """Rows that a request says it has; 1 where the model knows of none."""
    first = next(iter(inputs.values()), None)
    return first.shape[0] if first is not None and first.shape and signature.max_batch_size else 1


async def answer_tensors(
    pipeline: Pipeline,
    permit: Permit,
    terms: Terms,
    model: ServedModel,
    inputs: Mapping[str, Input],
    wanted: Sequence[str],
    options: Options,
) -> Outcome:
    """Have a model of tensors answer a request.

    Args:
        pipeline: Answers it.
        permit: Its place in the server.
        terms: What its caller asked of the scheduler.
        model: Who is asked.
        inputs: Its inputs by name.
        wanted: Names of the outputs wanted.
        options: What else it asks for, which can be nothing.

    Raises:
        RequestError: There is no answer.
    """
    options.end()
    arrays = {name: await _array(each, permit) for name, each in inputs.items()}
    request = TensorRequest(model.name, model.version, arrays, wanted)
    reply = await pipeline.infer_tensors(permit, terms, request)
    return Outcome(reply.model, reply.outputs, reply.timings)


async def _array(tensor: Input, permit: Permit) -> Array:
    if tensor.viewable:
        return tensor.array()
    # A message of short strings is many times as large when they are objects.
    permit.hold_bytes(tensor.most_objects * _ELEMENT_BYTES, tensor.field)
    if tensor.count <= INLINE_ELEMENTS:
        return tensor.array()
    return await asyncio.to_thread(tensor.array)
