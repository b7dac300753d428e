"""The inputs of a request: which elements belong to which, and whether the model has such an input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headwaiter_proto.inference import grpc_service_pb2

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.model.contract import Array, Signature
from headwaiter_server.model.datatypes import BY_NAME, BYTES, Datatype
from headwaiter_server.pipeline.tensors import listed
from headwaiter_server.rpc.open_inference.elements import (
    most_elements,
    object_array,
    read_shape,
    split_bytes,
    typed_bytes,
    typed_numbers,
    view_numbers,
)
from headwaiter_server.rpc.open_inference.parameters import SHARED_MEMORY, Parameters, check_known
from headwaiter_server.rpc.open_inference.shared_memory import SharedMemory
from headwaiter_server.rpc.open_inference.wire import InferRequest
from headwaiter_server.scheduling.admission import Permit

# Where elements are: fields of the message; or bytes, with where they begin and end in them.
Elements = grpc_service_pb2.InferTensorContents | tuple[bytes | memoryview, int, int]

_MOST_SHOWN = 100
_NO_CONTENTS = grpc_service_pb2.InferTensorContents()


@dataclass(frozen=True, slots=True)
class Input:
    """One input, not decoded yet.

    Attributes:
        field: Its path in the request, `inputs[text]`.
        datatype: What its elements are.
        shape: Its shape.
        elements: Where they are.
    """

    field: str
    datatype: Datatype
    shape: tuple[int, ...]
    elements: Elements

    @property
    def count(self) -> int:
        """Elements that the shape has."""
        return math.prod(self.shape)

    @property
    def viewable(self) -> bool:
        """Whether the array is a view on bytes, and so costs the same for any number of elements."""
        return isinstance(self.elements, tuple) and self.datatype.name != BYTES

    @property
    def size_bytes(self) -> int:
        """Bytes that its elements have, with their lengths."""
        if isinstance(self.elements, tuple):
            _, start, end = self.elements
            return end - start
        return self.elements.ByteSize()

    @property
    def most_objects(self) -> int:
        """Python objects that its elements become, at the most: of BYTES, as many as there can be in so many bytes."""
        if self.datatype.name != BYTES:
            return 0
        if isinstance(self.elements, tuple):
            return min(self.count, most_elements(self.size_bytes))
        return len(self.elements.bytes_contents)

    def texts(self) -> list[str]:
        """The elements, of BYTES, as texts.

        Raises:
            InvalidRequestError: They do not fill the shape, or one is no UTF-8.
        """
        texts: list[str] = []
        try:
            for element in self._bytes():
                texts.append(str(element, "utf-8"))  # noqa: PERF401 - the error says which one
        except UnicodeDecodeError:
            raise InvalidRequestError(f"{self.field}[{len(texts)}]", "is no UTF-8") from None
        return texts

    def array(self) -> Array:
        """The elements; a view on the request where they came as raw bytes of one size.

        Raises:
            InvalidRequestError: They do not fill the shape, or are out of the datatype's range.
        """
        if self.datatype.name == BYTES:
            return object_array(list(map(bytes, self._bytes())), self.shape)
        if isinstance(self.elements, tuple):
            return view_numbers(self.field, self.datatype, self.shape, *self.elements)
        return typed_numbers(self.field, self.datatype, self.shape, self.elements)

    def _bytes(self) -> list[bytes] | list[memoryview]:
        if isinstance(self.elements, tuple):
            return split_bytes(self.field, self.count, *self.elements)
        return typed_bytes(self.field, self.count, self.elements)


@dataclass(frozen=True, slots=True)
class InputPlan:
    """One input as requests of one form describe it.

    Attributes:
        name: Its name.
        field: Its path in the request, `inputs[text]`.
        datatype: What its elements are.
        shape: Its shape.
        parameters: Say that it is in shared memory; None if they do not.
        contents: Its elements, where they were sent as fields; None if it has none such.
    """

    name: str
    field: str
    datatype: Datatype
    shape: tuple[int, ...]
    parameters: Parameters | None
    contents: grpc_service_pb2.InferTensorContents | None


def plan_inputs(message: grpc_service_pb2.ModelInferRequest, signature: Signature) -> list[InputPlan]:
    """The inputs that a request describes, in its order.

    Raises:
        InvalidRequestError: One is unknown, missing or sent twice, or the model takes another datatype.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    plans: dict[str, InputPlan] = {}
    for tensor in message.inputs:
        name = tensor.name
        field = f"inputs[{name[:_MOST_SHOWN]}]"
        spec = specs.get(name)
        if spec is None:
            raise InvalidRequestError(field, f"is not known: the model's inputs are {listed(signature.inputs)}")
        if name in plans:
            raise InvalidRequestError(field, "is sent twice")
        if tensor.datatype != spec.datatype:
            raise InvalidRequestError(
                f"{field}.datatype", f"is {tensor.datatype[:_MOST_SHOWN]!r}, the model takes {spec.datatype}"
            )
        check_known(field, tensor.parameters, SHARED_MEMORY)
        plans[name] = InputPlan(
            name,
            field,
            BY_NAME[spec.datatype],
            read_shape(field, tensor.shape),
            tensor.parameters or None,
            tensor.contents if tensor.HasField("contents") else None,
        )
    if missing := [spec for spec in signature.inputs if not spec.optional and spec.name not in plans]:
        raise InvalidRequestError("inputs", f"lack {listed(missing)}")
    return list(plans.values())


async def read_inputs(
    request: InferRequest, plans: Sequence[InputPlan], shared_memory: SharedMemory, permit: Permit
) -> dict[str, Input]:
    """The inputs of a request, by name.

    Args:
        request: The request.
        plans: Its inputs.
        shared_memory: Holds the elements of those inputs that name a region.
        permit: Counts what is read from there.

    Raises:
        RequestError: The elements of an input are not there, or in two places.
    """
    inputs: dict[str, Input] = {}
    # Inputs in shared memory have no raw contents.
    unclaimed = iter(request.raw_contents)
    for plan in plans:
        stretch = None if plan.parameters is None else shared_memory.stretch(plan.parameters, plan.field)
        if plan.contents is not None and (stretch is not None or request.raw_contents):
            raise InvalidRequestError(
                f"{plan.field}.contents", "are sent beside raw contents, or a region of shared memory"
            )
        elements: Elements
        if stretch is not None:
            region = await stretch.read(permit)
            elements = region, 0, len(region)
        elif request.raw_contents:
            span = next(unclaimed, None)
            if span is None:
                raise _wrong_raw_contents(request)
            elements = request.data, *span
        else:
            elements = plan.contents or _NO_CONTENTS
        inputs[plan.name] = Input(plan.field, plan.datatype, plan.shape, elements)
    if next(unclaimed, None) is not None:
        raise _wrong_raw_contents(request)
    return inputs


def _wrong_raw_contents(request: InferRequest) -> InvalidRequestError:
    return InvalidRequestError(
        "raw_input_contents",
        f"has {len(request.raw_contents)} entries: send one for each input that is not in shared memory, in order",
    )
