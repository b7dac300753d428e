"""Bad input gets a clear error that names the field and the limit, and costs nobody else anything."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from headwaiter import AsyncClient, Client, InvalidRequestError, NotFoundError, ResourceExhaustedError
from headwaiter_proto.inference.grpc_service_pb2 import ModelStreamInferResponse
from reliability.fuzz_methods import Method, methods

from .process import ServerProcess
from .raw import refused, trailers

GENERATE = "/headwaiter.v1.InferenceService/Generate"
EVERY_METHOD = methods()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.grpc) as connected:
        yield connected


@pytest.mark.parametrize(
    ("texts", "field", "words"),
    [
        ([""], "texts[0]", ["empty"]),
        (["fine", "   "], "texts[1]", []),
        (["naïve\u0001"], "texts[0]", ["U+0001", "vocabulary"]),
        (["ok", "fine", "smile😀"], "texts[2]", ["U+1F600", "character 6"]),
        (["nul\0byte"], "texts[0]", ["U+0000"]),
        (["two words"], "texts[0]", ["U+0020"]),
        (["a" * 5000], "texts[0]", ["5001 tokens", "limit"]),
        (["a" * 3_000_000], "texts[0]", ["3000000 characters", "limit"]),
        (["word"] * 10_000, "texts", ["more than 1024 entries"]),
        ([""] * 1025, "texts", ["more than 1024 entries"]),
        ([], "texts", ["empty"]),
    ],
)
def test_bad_texts_name_field_and_limit(client: Client, texts: list[str], field: str, words: list[str]) -> None:
    """Each kind of text the model cannot take is refused with its place in the request and the limit."""
    with pytest.raises(InvalidRequestError) as caught:
        client.generate(texts)
    assert caught.value.field == field
    for word in words:
        assert word in caught.value.description


def test_ten_megabytes_are_too_much(client: Client) -> None:
    """A message over the limit is refused as such."""
    with pytest.raises(ResourceExhaustedError):
        client.generate("a" * 10_000_000)


def test_too_many_new_tokens_name_the_limit(client: Client) -> None:
    """Asking for more tokens than the model can generate names both numbers."""
    with pytest.raises(InvalidRequestError, match="max_new_tokens: is 100000, the limit of model 'pronounce' is"):
        client.generate("word", max_new_tokens=100_000)


@pytest.mark.parametrize(
    ("model", "version"), [("nobody", 0), ("pronounce", 99), ("../etc/passwd", 0), ("x" * 10_000, 0)]
)
def test_unknown_model_or_version_is_not_found(client: Client, model: str, version: int) -> None:
    """A model that does not exist is NOT_FOUND, and the answer says which do."""
    with pytest.raises(NotFoundError, match=r"pronounce|holds 1"):
        client.generate("word", model=model, version=version)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\xff", random.Random(64).randbytes(64), b"\x1a\x02\xff\xfe"])
def test_undecodable_bytes_are_invalid(server: ServerProcess, data: bytes) -> None:
    """Bytes that are no request are INVALID_ARGUMENT with details, never UNKNOWN or INTERNAL."""
    error = refused(server.grpc, GENERATE, data)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = trailers(error)["grpc-status-details-bin"]
    bad_request = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(details).details[0].Unpack(bad_request)
    assert bad_request.field_violations[0].field


@pytest.mark.parametrize("method", EVERY_METHOD, ids=[each.path for each in EVERY_METHOD])
@pytest.mark.parametrize(
    "messages", [[b"\xff\xff"], [b"\x0a\x02\xff\xfe\xff"], []], ids=["no tag", "cut off", "nothing"]
)
def test_what_is_no_message_is_invalid_for_every_method(
    server: ServerProcess, method: Method, messages: list[bytes]
) -> None:
    """Also health and reflection say INVALID_ARGUMENT and name a field; a stream of nothing has nothing to refuse."""
    with grpc.insecure_channel(server.grpc) as channel:
        multicallable: Any = channel.stream_stream(method.path)  # typed by messages, of which it has none here
        call = multicallable(iter(messages), timeout=10)
        if method.sends_many and not messages:
            assert list(call) == []
            return
        if method.name == "ModelStreamInfer":  # which tells it in the answer
            (answer,) = call
            assert "is no inference.ModelInferRequest" in ModelStreamInferResponse.FromString(answer).error_message
            return
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = error_details_pb2.BadRequest()
    details = status_pb2.Status.FromString(trailers(caught.value)["grpc-status-details-bin"])
    assert details.details[0].Unpack(violations)
    assert violations.field_violations[0].field == "message"


@pytest.mark.parametrize("value", ["0", "17", "-1", "high", "1.5", "9" * 1000, "0001" + "0" * 5000])
def test_bad_priority_is_refused(server: ServerProcess, value: str) -> None:
    """A priority out of range is refused with the range."""
    error = refused(server.grpc, GENERATE, b"", ("headwaiter-priority", value))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "from 1 (first) to 16" in str(error.details())


def test_unknown_method_is_unimplemented(server: ServerProcess) -> None:
    """A method that does not exist is UNIMPLEMENTED."""
    error = refused(server.grpc, "/headwaiter.v1.InferenceService/Nothing", b"")
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_bad_requests_cost_their_neighbours_nothing(server: ServerProcess) -> None:
    """Good calls among many bad ones are all answered, rightly."""
    async with AsyncClient(server.grpc, timeout_seconds=60) as client:
        expected = (await client.generate("neighbour")).generations[0].text

        async def good() -> str:
            return (await client.generate("neighbour")).generations[0].text

        async def bad(index: int) -> None:
            with pytest.raises(InvalidRequestError):
                await client.generate(["neighbour", ["", "é\0", "b" * 900][index % 3]])

        results = await asyncio.gather(*(good() if index % 2 else bad(index) for index in range(100)))
    assert [result for result in results if result is not None] == [expected] * 50
