from __future__ import annotations

import dataclasses
import inspect
import struct
from typing import TYPE_CHECKING, Any

import pytest
from headwaiter import (
    Attention,
    Classification,
    ClassifyReply,
    Client,
    EmbeddingInfo,
    EmbedReply,
    FinishReason,
    GenerateReply,
    GenerationResult,
    GraphKind,
    Hypothesis,
    InvalidRequestError,
    LikelyToken,
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
    TokenLogprob,
    codec,
)
from headwaiter_proto.v1 import bundle_pb2, inference_pb2
from unit.client.scripted_server import MODEL, upper_case

if TYPE_CHECKING:
    from enum import Enum

    from _typeshed import DataclassInstance
    from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
    from google.protobuf.message import Message


DEFAULTS: dict[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(Client.generate).parameters.items()
    if name not in {"self", "texts", "timeout_seconds", "metadata"}
}


def test_generate_request_carries_every_argument() -> None:
    """Arguments arrive in the message's fields as they were given."""
    arguments: dict[str, Any] = {
        "model": "m",
        "version": 2,
        "max_new_tokens": 7,
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.75,
        "repetition_penalty": 1.25,
        "seed": 2**64 - 1,
        "num_beams": 4,
        "num_return_sequences": 3,
        "length_penalty": 0.0,
        "stop": ["\n", "end"],
        "stop_token_ids": [5, 2**32 - 1],
        "logprobs": 0,
        "attention": True,
    }
    request = codec.generate_request(["a", "é"], **arguments)
    assert request == inference_pb2.GenerateRequest(texts=["a", "é"], **arguments)
    assert {field.name for field in inference_pb2.GenerateRequest.DESCRIPTOR.fields} == {"texts", *arguments}
    assert arguments.keys() == DEFAULTS.keys()


def test_what_is_not_given_is_not_there() -> None:
    """Options that nobody gave leave the choice to the server: their zeros would mean other things."""
    request = codec.generate_request("abc", **DEFAULTS)
    assert request == inference_pb2.GenerateRequest(texts=["abc"])
    assert not any(map(request.HasField, ("top_p", "repetition_penalty", "seed", "length_penalty", "logprobs")))


def test_one_text_is_not_a_sequence_of_characters() -> None:
    """A plain string is one text, and one string to stop at."""
    assert codec.generate_request("abc", **DEFAULTS).texts == ["abc"]
    assert codec.generate_request("abc", **DEFAULTS | {"stop": "end"}).stop == ["end"]


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


def test_everything_that_was_asked_for_arrives() -> None:
    """Log-probabilities, candidates, attention, seed, times and what stopped the text."""
    weights = [float(each) for each in range(2 * 1 * 2 * 3)]
    response = inference_pb2.GenerateResponse(
        generations=[
            inference_pb2.Generation(
                text="ab",
                token_ids=[1, 2],
                finish_reason=inference_pb2.FINISH_REASON_STOP,
                logprobs=[
                    inference_pb2.TokenLogprob(
                        token="a",  # noqa: S106 - no secret
                        logprob=-0.5,
                        top_token_ids=[1, 9],
                        top_tokens=["a", "z"],
                        top_logprobs=[-0.5, -4],
                    ),
                    inference_pb2.TokenLogprob(token="b", logprob=-1),  # noqa: S106 - no secret
                ],
                score=-0.25,
                alternatives=[
                    inference_pb2.Hypothesis(
                        text="b", token_ids=[2], score=-0.75, finish_reason=inference_pb2.FINISH_REASON_LENGTH
                    )
                ],
                attention=inference_pb2.Attention(
                    layers=1,
                    heads=2,
                    source_tokens=["x", "y", "z"],
                    tokens=["a", "b"],
                    weights=struct.pack("<12f", *weights),
                ),
                stopped_by="end",
                seed=0,
                token_seconds=[0.25, 0.5],
            )
        ]
    )
    (generation,) = codec.generate_reply(response).generations
    assert generation.logprobs == (
        TokenLogprob("a", -0.5, (LikelyToken(1, "a", -0.5), LikelyToken(9, "z", -4.0))),
        TokenLogprob("b", -1.0),
    )
    assert (generation.score, generation.seed, generation.stopped_by) == (-0.25, 0, "end")
    assert generation.alternatives == (Hypothesis("b", (2,), -0.75, FinishReason.LENGTH),)
    assert generation.token_seconds == (0.25, 0.5)
    attention = generation.attention
    assert attention is not None
    assert (attention.layers, attention.heads) == (1, 2)
    assert (attention.source_tokens, attention.tokens) == (("x", "y", "z"), ("a", "b"))
    assert attention.weights.shape == (2, 1, 2, 3)
    assert attention.weights.ravel().tolist() == weights


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
        (Hypothesis, inference_pb2.Hypothesis),
        (Attention, inference_pb2.Attention),
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


def test_kinds_of_graphs_and_tasks_arrive() -> None:
    """Every kind that the contract has is told by its name."""
    for name in GraphKind.__members__.keys() - {"UNKNOWN"}:
        model = inference_pb2.ModelInfo(graph_kind=f"GRAPH_KIND_{name}")
        assert codec.model_info(inference_pb2.GetModelResponse(model=model)).graph_kind is GraphKind[name]
    for name in Task.__members__.keys() - {"UNKNOWN"}:
        model = inference_pb2.ModelInfo(task=f"TASK_{name}")
        assert codec.model_info(inference_pb2.GetModelResponse(model=model)).task is Task[name]


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
        ({"top_k": -1}, "top_k"),
        ({"num_beams": -1}, "num_beams"),
        ({"num_return_sequences": -1}, "num_return_sequences"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ["fine", "lone \ud800"]}, "stop[1]"),
        ({"stop_token_ids": [1, 2, -3]}, "stop_token_ids[2]"),
        ({"logprobs": -1}, "logprobs"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": None, "length_penalty": [1.0]}, "length_penalty"),
        ({"repetition_penalty": "1"}, "repetition_penalty"),
        ({"top_p": b"1"}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids[0]"),
        ({"texts": 7}, "texts"),
        ({"texts": ["fine", 7]}, "texts[1]"),
        ({"model": None}, "model"),
    ],
)
def test_what_has_no_wire_form_is_refused_by_name(arguments: dict[str, Any], field: str) -> None:
    """A value that cannot be written names its field before anything is sent."""
    with pytest.raises(InvalidRequestError) as caught:
        codec.generate_request(**({"texts": ""} | DEFAULTS | arguments))
    assert caught.value.field == field
    assert str(caught.value) == f"{field}: {caught.value.description}"
