"""Requests of `ModelInfer` with something wrong with them are told what."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from headwaiter_server.errors import InvalidRequestError, RequestError
from hypothesis import given
from hypothesis import strategies as st

from .open_inference import Request, classifier, embedder, text_request


def alter_input(
    name: str | None = None, datatype: str | None = None, shape: list[int] | None = None
) -> Callable[[Request], None]:
    def alter(request: Request) -> None:
        tensor = request.inputs[0]
        tensor.name = tensor.name if name is None else name
        tensor.datatype = tensor.datatype if datatype is None else datatype
        tensor.shape[:] = list(tensor.shape) if shape is None else shape

    return alter


def alter_output_parameter(name: str, kind: str, value: object) -> Callable[[Request], None]:
    def alter(request: Request) -> None:
        setattr(request.outputs.add(name="embedding").parameters[name], kind, value)

    return alter


def send_raw(*contents: bytes) -> Callable[[Request], None]:
    def alter(request: Request) -> None:
        request.raw_input_contents[:] = contents

    return alter


def alter_input_parameter(request: Request) -> None:
    request.inputs[0].parameters["binary_data_size"].int64_param = 11


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (alter_input(name="texts"), r"inputs\[texts\]: is not known: the model's inputs are text"),
        (lambda r: r.inputs.append(r.inputs[0]), r"inputs\[text\]: is sent twice"),
        (lambda r: r.inputs.pop(), r"inputs: lack text"),
        (alter_input(datatype="FP32"), r"inputs\[text\]\.datatype: is 'FP32', the model takes BYTES"),
        (alter_input(datatype=""), r"inputs\[text\]\.datatype: is '', the model takes BYTES"),
        (alter_input(shape=[2]), r"inputs\[text\]\.shape: is \[2\], the model takes \[-1, 1\]"),
        (alter_input(shape=[1, 2]), r"inputs\[text\]\.shape: is \[1, 2\], the model takes \[-1, 1\]"),
        (alter_input(shape=[-1, 1]), r"inputs\[text\]\.shape: is \[-1, 1\]: sizes begin at 0"),
        (alter_input(shape=[101, 1]), r"inputs\[text\]\.shape: has 101 rows, the limit is 100"),
        (alter_input(shape=[3, 1]), r"inputs\[text\]: has 11 bytes, .* too few for 3 elements"),
        (alter_input(shape=[1, 1]), r"inputs\[text\]: has 11 bytes, in which 1 elements .* do not fit"),
        (alter_input_parameter, r"inputs\[text\]\.parameters\[binary_data_size\]: is not known"),
        (
            lambda r: r.inputs[0].contents.bytes_contents.append(b"a"),
            r"inputs\[text\]\.contents: are sent beside raw contents",
        ),
        (send_raw(b"", b""), r"raw_input_contents: has 2 entries"),
        (send_raw(), r"inputs\[text\]\.contents: has 0 elements, the shape has 2"),
        (send_raw(b"\x01\0\0\0a\x02\0\0\0\xff\xfe"), r"inputs\[text\]\[1\]: is no UTF-8"),
        (
            lambda r: r.outputs.add(name="scores"),
            r"outputs\[scores\]: is not known: the model's outputs are embedding",
        ),
        (
            lambda r: r.outputs.extend([Request.InferRequestedOutputTensor(name="embedding")] * 2),
            r"outputs\[embedding\]: is wanted twice",
        ),
        (
            alter_output_parameter("binary_data", "bool_param", True),
            r"outputs\[embedding\]\.parameters\[binary_data\]: is not known",
        ),
        (
            alter_output_parameter("classification", "int64_param", 0),
            r"outputs\[embedding\]\.parameters\[classification\]: is 0, expected 1 or more",
        ),
        (
            alter_output_parameter("classification", "string_param", "1"),
            r"outputs\[embedding\]\.parameters\[classification\]: is a string, expected an integer",
        ),
    ],
)
async def test_wrong_requests_are_told_what_is_wrong(alter: Callable[[Request], None], message: str) -> None:
    """The field, the value and what was expected; the call counts as one of its model's that failed."""
    asked, request = embedder(), text_request("a", "bb")
    alter(request)
    with pytest.raises(InvalidRequestError, match=f"^{message}"):
        await asked.infer(request)
    assert (asked.crossing.model, bool(asked.crossing.rows)) == ("m", True)


async def test_what_is_kept_of_a_request_is_held_to_each_model() -> None:
    """The same words are right for one model and wrong for the next, however often they were read."""
    request = text_request("a")
    request.outputs.add(name="embedding")
    for _ in range(2):
        assert len((await embedder().infer(request)).outputs) == 1
        with pytest.raises(
            InvalidRequestError, match=r"^outputs\[embedding\]: is not known: the model's outputs are label"
        ):
            await classifier().infer(request)


async def test_texts_that_the_pipeline_refuses_are_named_as_the_protocol_has_them() -> None:
    """Its fields are those of `headwaiter.v1`."""
    with pytest.raises(InvalidRequestError, match=r"^inputs\[text\]\[1\]: has 51 tokens, the limit is 50$"):
        await embedder().infer(text_request("a", "b" * 51))
    with pytest.raises(InvalidRequestError, match=r"^inputs\[text\]: is empty: send at least one text"):
        await embedder().infer(text_request())


@pytest.mark.parametrize("pairs", [[], ["x"], ["x", "y", "z"]])
async def test_inputs_of_other_lengths_are_refused(pairs: list[str]) -> None:
    """Row i of one belongs to row i of the other; none is not left out but wrong."""
    with pytest.raises(InvalidRequestError, match=rf"shape: has {len(pairs)} rows, another input has 2$"):
        await classifier().infer(text_request("a", "b", text_pair=pairs))


async def test_labels_are_no_scores() -> None:
    """Best classes can only be had of numbers."""
    request = text_request("a")
    request.outputs.add(name="label").parameters["classification"].int64_param = 1
    with pytest.raises(InvalidRequestError, match="elements of BYTES are no scores"):
        await classifier().infer(request)


@given(st.data())
def test_any_change_of_a_request_is_answered_or_refused(draw: st.DataObject) -> None:
    """With some bytes changed, left out or put in: nothing comes of it but an answer or an error of the request's."""
    request = text_request("abc", "défg", text_pair=["x", "y"])
    request.outputs.add(name="scores").parameters["classification"].int64_param = 2
    request.parameters["truncate"].bool_param = True
    request.parameters["timeout"].int64_param = 1 << 40
    data = bytearray(request.SerializeToString())
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(data) - 1))
        data[place : place + draw.draw(st.integers(0, 2))] = draw.draw(st.binary(max_size=2))
    asked = classifier()

    async def ask() -> None:
        with contextlib.suppress(RequestError):
            assert (await asked.infer_bytes(bytes(data))).model_name == "m"

    asyncio.run(ask())
