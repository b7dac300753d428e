"""Models, versions and parameters of `ModelInfer`: done, or refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
from headwaiter_server.errors import DeadlineExceededError, InvalidRequestError, UnknownModelError, UnsupportedError
from headwaiter_server.scheduling.calls import DEFAULT_PRIORITY

from .open_inference import embedder, text_request, vectors


async def test_model_is_found_by_name_and_version() -> None:
    """No version is the highest."""
    asked = embedder(names=[("m", 2), ("m", 10), ("other", 1)])
    request = text_request("a")
    assert (await asked.infer(request)).model_version == "10"
    request.model_version = "2"
    assert (await asked.infer(request)).model_version == "2"
    request.model_version = "3"
    with pytest.raises(UnknownModelError, match="no version 3 of model 'm'"):
        await asked.infer(request)
    for version in ("-1", "0", "two", "1.0", "9" * 30, "\u0661"):
        request.model_version = version
        with pytest.raises(InvalidRequestError, match=r"^model_version: .* expected a whole number from 1"):
            await asked.infer(request)


async def test_priority_and_timeout() -> None:
    """Of metadata and parameter the parameter counts; of two deadlines the earlier."""
    asked = embedder()
    request = text_request("a")
    await asked.infer(request)
    assert asked.lane.terms[-1].priority == DEFAULT_PRIORITY
    assert math.isinf(asked.lane.terms[-1].deadline)
    request.parameters["priority"].uint64_param = 3
    request.parameters["timeout"].int64_param = 5_000_000
    await asked.infer(request)
    terms = asked.lane.terms[-1]
    assert terms.priority == 3
    assert terms.deadline == pytest.approx(asked.crossing.terms.arrived + 5.0)
    request.parameters["priority"].uint64_param = 0
    request.parameters["timeout"].int64_param = 0
    await asked.infer(request)
    assert asked.lane.terms[-1].priority == DEFAULT_PRIORITY
    assert math.isinf(asked.lane.terms[-1].deadline)
    request.parameters["timeout"].int64_param = 1
    with pytest.raises(DeadlineExceededError):
        await asked.infer(request)


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("sequence_id", "int64_param", 0),
        ("sequence_id", "string_param", ""),
        ("sequence_start", "bool_param", False),
        ("sequence_end", "bool_param", False),
        ("binary_data_output", "bool_param", True),
        ("triton_enable_empty_final_response", "bool_param", True),
    ],
)
async def test_parameters_that_ask_for_what_is_done_anyway(name: str, kind: str, value: object) -> None:
    """They are taken: what they ask for is what happens."""
    request = text_request("a")
    setattr(request.parameters[name], kind, value)
    assert vectors(await embedder().infer(request)) == [[1, ord("a"), 0.5]]


@pytest.mark.parametrize(
    ("name", "kind", "value", "error"),
    [
        ("sequence_id", "uint64_param", 7, UnsupportedError),
        ("sequence_id", "string_param", "s", UnsupportedError),
        ("sequence_start", "bool_param", True, UnsupportedError),
        ("sequence_end", "bool_param", True, UnsupportedError),
        ("headers", "string_param", "", UnsupportedError),
        ("binary_data_output", "bool_param", False, UnsupportedError),
        ("priority", "int64_param", 17, InvalidRequestError),
        ("priority", "int64_param", -1, InvalidRequestError),
        ("priority", "string_param", "1", InvalidRequestError),
        ("priority", "bool_param", True, InvalidRequestError),
        ("timeout", "int64_param", -1, InvalidRequestError),
        ("timeout", "double_param", 1.0, InvalidRequestError),
        ("triton_enable_empty_final_response", "string_param", "yes", InvalidRequestError),
        ("triton_something", "bool_param", True, InvalidRequestError),
        ("truncate", "string_param", "true", InvalidRequestError),
        ("truncate", "int64_param", 1, InvalidRequestError),
        ("dimensions", "int64_param", -1, InvalidRequestError),
        ("dimensions", "int64_param", 4, InvalidRequestError),
        ("prompt", "string_param", "nobody", InvalidRequestError),
        ("truncat", "bool_param", True, InvalidRequestError),
        ("x" * 200, "bool_param", True, InvalidRequestError),
    ],
)
async def test_parameters_without_effect_are_refused(
    name: str,
    kind: str,
    value: object,
    error: Any,  # noqa: ANN401 - a class
) -> None:
    """A parameter is done, or refused by name: UNIMPLEMENTED what the protocol knows and this server does not."""
    request = text_request("a")
    setattr(request.parameters[name], kind, value)
    with pytest.raises(error) as caught:
        await embedder().infer(request)
    assert caught.value.field == f"parameters[{name[:100]}]"


async def test_parameter_without_a_value_is_refused() -> None:
    """No value is no default."""
    request = text_request("a")
    request.parameters["truncate"].SetInParent()
    with pytest.raises(InvalidRequestError, match=r"^parameters\[truncate\]: has no value"):
        await embedder().infer(request)


async def test_unknown_parameter_is_told_what_is_known() -> None:
    """Most are misspelt."""
    request = text_request("a")
    request.parameters["truncat"].bool_param = True
    with pytest.raises(InvalidRequestError, match="this model knows dimensions, normalize, prompt, truncate"):
        await embedder().infer(request)
