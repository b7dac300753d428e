"""The outputs that a request wants, and their way into the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from headwaiter_proto.inference import grpc_service_pb2

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.model.contract import Array, Signature, TensorSpec
from headwaiter_server.model.datatypes import BY_NAME, BYTES, Datatype
from headwaiter_server.pipeline import Timings
from headwaiter_server.pipeline.tensors import listed
from headwaiter_server.rpc.open_inference.classes import CLASSES, read_classes, top_classes
from headwaiter_server.rpc.open_inference.elements import INLINE_ELEMENTS, raw_contents
from headwaiter_server.rpc.open_inference.parameters import SHARED_MEMORY, Parameters, check_known
from headwaiter_server.rpc.open_inference.shared_memory import Stretch
from headwaiter_server.rpc.open_inference.wire import Buffer

_MOST_SHOWN = 100


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """One output as requests of one form want it.

    Attributes:
        spec: Which.
        field: Its path in the request, `outputs[embedding]`.
        datatype: What its elements are.
        parameters: Say where in shared memory it is to be put; None if they do not.
        classes: How many of its best classes are wanted in place of its elements; 0 for the elements.
    """

    spec: TensorSpec
    field: str
    datatype: Datatype
    parameters: Parameters | None = None
    classes: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call.

    Attributes:
        model: Who answered.
        values: The model's outputs by name; those wanted, and maybe others.
        timings: Where its time went.
    """

    model: ServedModel
    values: Mapping[str, Array]
    timings: Timings


def plan_outputs(message: grpc_service_pb2.ModelInferRequest, signature: Signature) -> list[OutputPlan]:
    """The outputs that a request wants, in its order; if it names none, all that answers hold unasked.

    Raises:
        InvalidRequestError: One is unknown or wanted twice, or cannot be given in that way.
    """
    there = (*signature.outputs, *signature.more_outputs)
    specs = {spec.name: spec for spec in there}
    if not message.outputs:
        return [OutputPlan(spec, f"outputs[{spec.name}]", BY_NAME[spec.datatype]) for spec in signature.outputs]
    plans: dict[str, OutputPlan] = {}
    for tensor in message.outputs:
        name = tensor.name
        field = f"outputs[{name[:_MOST_SHOWN]}]"
        spec = specs.get(name)
        if spec is None:
            raise InvalidRequestError(field, f"is not known: the model's outputs are {listed(there)}")
        if name in plans:
            raise InvalidRequestError(field, "is wanted twice")
        check_known(field, tensor.parameters, {*SHARED_MEMORY, CLASSES})
        classes = read_classes(tensor.parameters, field, spec)
        if classes and len(tensor.parameters) > 1:
            raise InvalidRequestError(f"{field}.parameters[{CLASSES}]", "cannot go into shared memory")
        parameters = tensor.parameters if tensor.parameters and not classes else None
        plans[name] = OutputPlan(spec, field, BY_NAME[BYTES if classes else spec.datatype], parameters, classes)
    return list(plans.values())


async def write_outputs(
    plans: Sequence[OutputPlan],
    stretches: Mapping[str, Stretch],
    values: Mapping[str, Array],
    labels: Sequence[str],
    *,
    rows: bool,
) -> tuple[list[bytes], list[Buffer]]:
    """Make outputs ready for an answer.

    Args:
        plans: The outputs that the request wants.
        stretches: Where in shared memory those are to be put that do not travel.
        values: The model's outputs by name.
        labels: Names of classes, where the model has them.
        rows: Whether their first axis is one of rows.

    Returns:
        What the answer says of each output, as a field of it; and its elements, none of those in shared memory.

    Raises:
        InvalidRequestError: One has no room in its place in shared memory.
    """
    described: list[bytes] = []
    contents: list[Buffer] = []
    for plan in plans:
        name, value = plan.spec.name, values[plan.spec.name]
        write = partial(_write, plan, value, labels, rows=rows)
        long = plan.datatype.name == BYTES and value.size > INLINE_ELEMENTS
        value, content = await asyncio.to_thread(write) if long else write()
        if name in stretches:
            await stretches[name].write(content)
            described.append(_described(name, plan.datatype.name, value.shape, stretches[name]))
            contents.append(b"")
        else:
            described.append(_described_once(name, plan.datatype.name, value.shape))
            contents.append(content)
    return described, contents


def _write(plan: OutputPlan, value: Array, labels: Sequence[str], *, rows: bool) -> tuple[Array, Buffer]:
    """An output as it is wanted, and its elements; of BYTES in a time for each element, and of classes to sort them."""
    if plan.classes:
        value = top_classes(value, plan.classes, labels, rows=rows)
    return value, raw_contents(value, plan.datatype)


def _described(name: str, datatype: str, shape: tuple[int, ...], stretch: Stretch | None = None) -> bytes:
    response = grpc_service_pb2.ModelInferResponse()
    tensor = response.outputs.add(name=name, datatype=datatype, shape=shape)
    if stretch is not None:
        stretch.describe(tensor.parameters)
    return response.SerializeToString()


# Answer after answer describes the same outputs.
_described_once = lru_cache(1024)(_described)
