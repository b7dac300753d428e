from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from headwaiter import (
    Classification,
    ClassifyReply,
    EmbeddingInfo,
    EmbedReply,
    FinishReason,
    GenerateReply,
    GenerationResult,
    GraphKind,
    InvalidRequestError,
    Limits,
    ModelInfo,
    RankedText,
    Reading,
    RerankReply,
    Span,
    Tagging,
    TagReply,
    Task,
    Timings,
    Tokenization,
    TokenizeReply,
    codec,
)
from headwaiter_proto.v1 import bundle_pb2, inference_pb2

if TYPE_CHECKING:
    from enum import Enum

    from _typeshed import DataclassInstance
    from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
    from google.protobuf.message import Message
from unit.client.scripted_server import MODEL, upper_case


def test_generate_request_carries_every_argument() -> None:
    """Arguments arrive in the message's fields as they were given."""
    request = codec.generate_request(["a", "é"], model="m", version=2, max_new_tokens=7)
    assert request == inference_pb2.GenerateRequest(model="m", version=2, texts=["a", "é"], max_new_tokens=7)


def test_one_text_is_not_a_sequence_of_characters() -> None:
    """A plain string is one text."""
    assert codec.generate_request("abc", model="", version=0, max_new_tokens=0).texts == ["abc"]


def test_generate_reply_holds_what_the_message_holds() -> None:
    """Every value of a reply arrives in the dataclasses."""
    request = inference_pb2.GenerateRequest(texts=["ab"]).SerializeToString()
    response = inference_pb2.GenerateResponse.FromString(upper_case(request, None))  # type: ignore[arg-type]
    assert codec.generate_reply(response) == GenerateReply(
        model="shout",
        version=3,
        variant="fp32",
        generations=(GenerationResult("AB", (65, 66), FinishReason.END_OF_SEQUENCE, 4),),
        timings=Timings(0.5, 0.125, 0.0625, 0.25, 8, 90, 41),
    )


def test_model_info_holds_what_the_message_holds() -> None:
    """Every value of a model description arrives in the dataclasses."""
    info = codec.model_info(inference_pb2.GetModelResponse(model=MODEL))
    assert info == ModelInfo(
        "shout", 3, Task.GENERATE, "transformer", "fp32", Limits(64, 48), GraphKind.PADDED, (), None
    )


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (GenerateReply, inference_pb2.GenerateResponse),
        (GenerationResult, inference_pb2.Generation),
        (Timings, inference_pb2.Timings),
        (ModelInfo, inference_pb2.ModelInfo),
        (Limits, bundle_pb2.Limits),
        (EmbeddingInfo, bundle_pb2.Embedding),
        (Reading, inference_pb2.Reading),
        (EmbedReply, inference_pb2.EmbedResponse),
        (ClassifyReply, inference_pb2.ClassifyResponse),
        (Classification, inference_pb2.Classification),
        (TagReply, inference_pb2.TagResponse),
        (Tagging, inference_pb2.Tagging),
        (Span, inference_pb2.Span),
        (RerankReply, inference_pb2.RerankResponse),
        (RankedText, inference_pb2.RankedText),
        (TokenizeReply, inference_pb2.TokenizeResponse),
        (Tokenization, inference_pb2.Tokenization),
    ],
)
def test_results_have_the_fields_of_their_messages(result: type[DataclassInstance], message: type[Message]) -> None:
    """A field added to the contract is missing in no result."""
    assert [field.name for field in dataclasses.fields(result)] == list(message.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize(
    ("enum", "python"),
    [(inference_pb2.FinishReason, FinishReason), (bundle_pb2.Task, Task), (bundle_pb2.GraphKind, GraphKind)],
)
def test_enums_have_the_values_of_the_contract(enum: EnumTypeWrapper, python: type[Enum]) -> None:
    """An enum value added to the contract is known by name, its zero as unknown."""
    prefix = enum.keys()[0].removesuffix("UNSPECIFIED")
    assert {name.removeprefix(prefix) for name in enum.keys()} - {"UNSPECIFIED"} == set(  # noqa: SIM118
        python.__members__
    ) - {"UNKNOWN"}


def test_enum_values_of_a_newer_server_are_unknown() -> None:
    """A value this client does not know is no error."""
    generation = inference_pb2.Generation.FromString(b"\x18\x63")  # finish_reason: 99
    response = inference_pb2.GenerateResponse(generations=[generation])
    assert codec.generate_reply(response).generations[0].finish_reason is FinishReason.UNKNOWN


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"texts": ["fine", "lone \ud800"]}, "texts[1]"),
        ({"model": "\udcff"}, "model"),
        ({"version": -1}, "version"),
        ({"version": 2**63}, "version"),
        ({"max_new_tokens": 2**32}, "max_new_tokens"),
    ],
)
def test_what_has_no_wire_form_is_refused_by_name(arguments: dict[str, Any], field: str) -> None:
    """A value that cannot be written names its field before anything is sent."""
    defaults: dict[str, Any] = {"texts": "", "model": "", "version": 0, "max_new_tokens": 0}
    with pytest.raises(InvalidRequestError) as caught:
        codec.generate_request(**(defaults | arguments))
    assert caught.value.field == field
    assert str(caught.value) == f"{field}: {caught.value.description}"
