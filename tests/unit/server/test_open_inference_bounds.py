"""What one request may take of the server: of its memory, and of its event loop's time."""

from __future__ import annotations

import threading
from typing import Any, cast

import numpy as np
import pytest
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.errors import InvalidRequestError, QueueFullError
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.metrics import Metrics
from headwaiter_server.model.contract import Array, Signature, TensorSpec
from headwaiter_server.model.datatypes import BY_NAME, BYTES
from headwaiter_server.pipeline import Pipeline, TensorRequest
from headwaiter_server.rpc.open_inference.elements import INLINE_ELEMENTS, join_bytes, object_array
from headwaiter_server.rpc.open_inference.inputs import Input, plan_inputs
from headwaiter_server.rpc.open_inference.options import Options
from headwaiter_server.rpc.open_inference.outputs import plan_outputs, write_outputs
from headwaiter_server.rpc.open_inference.tensors import answer_tensors
from headwaiter_server.rpc.open_inference.texts import read_texts
from headwaiter_server.scheduling.admission import Admission
from headwaiter_server.scheduling.calls import Terms

from .open_inference import Dispatching, Request

# A thousand empty strings, as they travel.
STRINGS = Input("inputs[x]", BY_NAME[BYTES], (1000,), (bytes(4000), 0, 4000))
MANY_NAMES = tuple(TensorSpec(f"tensor-{index}", "FP32", (-1,)) for index in range(1000))


class Noted(bytes):
    """Notes on which threads it is decoded."""

    threads: set[threading.Thread]

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        Noted.threads.add(threading.current_thread())
        return super().decode(encoding, errors)


class Told(Exception):  # noqa: N818 - it is no error
    """Submitting has come so far."""


class TellingLane:
    """Where nothing waits."""

    def foresee(self, _terms: object, _texts: int) -> None:
        pass

    def submit(self, entries: list[Any]) -> None:
        raise Told


@pytest.mark.parametrize(
    ("most_bytes", "refused", "message"),
    [
        (100_000, InvalidRequestError, r"^inputs\[x\]: takes 128000 bytes, the limit is 100000"),
        (200_000, QueueFullError, "^200000 bytes of calls are waiting already"),
    ],
)
async def test_strings_count_as_what_they_become(most_bytes: int, refused: type[Exception], message: str) -> None:
    """A message of short strings is many times as large in memory, where it counts before it is made."""
    admission = Admission(max_calls=10, max_bytes=most_bytes)
    nobody = cast("Any", None)
    with admission.admit(most_bytes), admission.admit(0) as permit:
        with pytest.raises(refused, match=message):
            await answer_tensors(nobody, permit, Terms(0.0), nobody, {"x": STRINGS}, [], Options({}))
        assert permit.size_bytes == 0


@pytest.mark.parametrize(("count", "on_a_thread"), [(10, False), (100_000, True)])
async def test_many_strings_are_decoded_on_a_thread(count: int, on_a_thread: bool) -> None:  # noqa: FBT001 - a parameter
    """The event loop is never held by one call's elements."""
    Noted.threads = set()
    signature = Signature((TensorSpec("x", BYTES, (-1,)),), (TensorSpec("y", BYTES, (-1,)),), count)
    catalog = Catalog()
    manifest = bundle_pb2.Manifest(task=bundle_pb2.TASK_TENSOR)
    catalog.add(ServedModel("m", 1, "fp32", manifest, None, cast("Any", TellingLane()), signature=signature))
    pipeline = Pipeline(catalog, cast("Any", Dispatching()), Metrics(), 1)
    strings = object_array([Noted(b"a")] * count, (count,))
    with Admission(1, 1).admit(1) as permit, pytest.raises(Told):
        await pipeline.infer_tensors(permit, Terms(0.0), TensorRequest("m", 1, {"x": strings}))
    assert (threading.current_thread() not in Noted.threads) is on_a_thread
    assert len(Noted.threads) == 1


@pytest.mark.parametrize("as_fields", [False, True])
@pytest.mark.parametrize(("characters", "on_a_thread"), [(10, False), (2 << 20, True)])
async def test_long_texts_are_decoded_on_a_thread(
    characters: int,
    on_a_thread: bool,  # noqa: FBT001 - a parameter
    as_fields: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However they came."""
    threads = []
    texts = Input.texts

    def noted(tensor: Input) -> list[str]:
        threads.append(threading.current_thread())
        return texts(tensor)

    monkeypatch.setattr(Input, "texts", noted)
    text = b"a" * characters
    sent = join_bytes([text])
    elements = grpc_service_pb2.InferTensorContents(bytes_contents=[text]) if as_fields else (sent, 0, len(sent))
    read = await read_texts({"text": Input("inputs[text]", BY_NAME[BYTES], (1, 1), elements)}, 1)
    assert read == {"text": [text.decode()]}
    assert [thread is not threading.current_thread() for thread in threads] == [on_a_thread]


@pytest.mark.parametrize(
    ("classes", "values", "on_a_thread"),
    [
        (0, np.zeros(INLINE_ELEMENTS + 1, np.float32), False),
        (0, object_array([b"a"] * INLINE_ELEMENTS, (INLINE_ELEMENTS,)), False),
        (0, object_array([b"a"] * (INLINE_ELEMENTS + 1), (INLINE_ELEMENTS + 1,)), True),
        (1, np.zeros(INLINE_ELEMENTS, np.float32), False),
        (1, np.zeros(INLINE_ELEMENTS + 1, np.float32), True),
    ],
)
async def test_long_outputs_are_written_on_a_thread(
    classes: int,
    values: Array,
    on_a_thread: bool,  # noqa: FBT001 - a parameter
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Strings, and classes that are to be sorted; numbers go as they are, however many."""
    threads = []

    def noted(array: Array, _: object) -> bytes:
        threads.append(threading.current_thread())
        return b"x" * array.size

    monkeypatch.setattr("headwaiter_server.rpc.open_inference.outputs.raw_contents", noted)
    request = Request()
    output = request.outputs.add(name="y")
    if classes:
        output.parameters["classification"].int64_param = classes
    datatype = BYTES if values.dtype.hasobject else "FP32"
    plans = plan_outputs(request, Signature((), (TensorSpec("y", datatype, (-1,)),), 0))
    described, (content,) = await write_outputs(plans, {}, {"y": values}, [], rows=False)
    (told,) = grpc_service_pb2.ModelInferResponse.FromString(described[0]).outputs
    assert (list(told.shape), len(content)) == ([classes or values.size], classes or values.size)
    assert [thread is not threading.current_thread() for thread in threads] == [on_a_thread]


def test_errors_name_some_of_many_tensors() -> None:
    """A status travels in headers, for which clients have little room."""
    signature = Signature(MANY_NAMES, MANY_NAMES, 0)
    for request in (Request(), Request(inputs=[Request.InferInputTensor(name="other")])):
        with pytest.raises(InvalidRequestError, match=r"tensor-0, .*tensor-9 and 990 more") as refused:
            plan_inputs(request, signature)
        assert len(str(refused.value)) < 400
    wanted = Request(outputs=[Request.InferRequestedOutputTensor(name="other")])
    with pytest.raises(InvalidRequestError, match=r"tensor-0, .*tensor-9 and 990 more"):
        plan_outputs(wanted, signature)
