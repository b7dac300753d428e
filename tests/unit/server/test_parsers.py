"""Whatever a caller writes where a number, a list or a configuration is expected is read, or refused in our words."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from headwaiter_server.errors import InvalidRequestError, RequestError
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.lifecycle.version_override import parse_override
from headwaiter_server.rpc.crossing import PRIORITY_KEY, terms_of
from headwaiter_server.rpc.open_inference.elements import read_shape
from headwaiter_server.rpc.open_inference.options import Options
from headwaiter_server.rpc.open_inference.parameters import read_version
from headwaiter_server.rpc.status import status_of
from hypothesis import given
from hypothesis import strategies as st

# What looks like numbers and lists, and nearly so.
_NEARLY = st.text(alphabet='0123456789-+.eExX_[]{}",:\\ud8nNaAiIfF\uff11\u0663\u00b2 \t\0', max_size=40)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
).map(json.dumps)
_TEXTS = st.text(max_size=60) | _NEARLY | _JSON
_VALUES = _TEXTS | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats()


def _configuration(text: str) -> str:
    return json.dumps({text: 1, "name": text, "version_policy": {text: {}}})


class Call:
    """As much of a call as its terms are read from."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    def time_remaining(self) -> None:
        """It has no deadline."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """What was sent along."""
        return self._metadata


def sent(error: RequestError) -> None:
    """What is refused can be told: by a field, in a status that fits into what gRPC sends."""
    status = status_of(error)
    assert len(status.message.encode()) < 2000
    if isinstance(error, InvalidRequestError):
        assert error.field


@given(_VALUES)
def test_options_are_read_or_refused(value: Any) -> None:  # noqa: ANN401 - of any kind
    """Each way to read an option gives what it says it gives, whatever was written."""
    for read, kinds in (
        ("whole", int),
        ("number", float),
        ("strings", tuple),
        ("numbers", frozenset),
        ("count", int),
        ("flag", bool),
    ):
        try:
            found = getattr(Options({"option": value}), read)("option")
        except InvalidRequestError as error:
            sent(error)
        else:
            assert isinstance(found, kinds)


@given(_VALUES, _VALUES, _VALUES, st.integers(-5, 100))
def test_generation_is_asked_for_in_range_or_refused(temperature: Any, top_p: Any, stop: Any, tokens: int) -> None:  # noqa: ANN401 - of any kind
    """What passes every check is a finite number in its range, and strings that can be looked for."""
    options = Options({"temperature": temperature, "top_p": top_p, "stop": stop})
    try:
        decoding = Decoding(
            max_new_tokens=tokens,
            temperature=options.number("temperature") or 0.0,
            top_p=options.number("top_p") or 1.0,
            stop=options.strings("stop"),
            seed=1,
        )
        decoding.check(100)
    except InvalidRequestError as error:
        sent(error)
        return
    assert 0 <= decoding.temperature < math.inf
    assert 0 < decoding.top_p <= 1
    assert all(0 < len(each) <= 256 for each in decoding.stop)


@given(_TEXTS)
def test_versions_are_numbers_or_refused(text: str) -> None:
    """A version is a whole number from 1, written as one; nothing stands for the newest."""
    try:
        version = read_version(text)
    except InvalidRequestError as error:
        sent(error)
    else:
        assert version >= (1 if text else 0)


@given(_TEXTS)
def test_priorities_are_in_range_or_refused(text: str) -> None:
    """A priority of the metadata is one of sixteen."""
    try:
        terms = terms_of(0.0, Call(((PRIORITY_KEY, text),)))  # type: ignore[arg-type]
    except InvalidRequestError as error:
        sent(error)
    else:
        assert 1 <= terms.priority <= 16


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40))
def test_shapes_can_be_multiplied_or_are_refused(sizes: list[int]) -> None:
    """What is left is a shape of no more elements than can be counted."""
    try:
        shape = read_shape("inputs[a]", sizes)
    except InvalidRequestError as error:
        sent(error)
    else:
        assert 0 <= math.prod(shape) <= 1 << 48


@given(
    _TEXTS | st.text(max_size=30).map(lambda text: json.dumps({text: 1, "name": text, "version_policy": {text: {}}}))
)
def test_configurations_choose_versions_or_are_refused(text: str) -> None:
    """Whatever stands where a configuration should, it is a policy, none, or an error of ours."""
    try:
        parse_override(text, "model")
    except RequestError as error:
        sent(error)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60_000,
        '{"a":' * 10_000,
        '{"' + "é" * 20_000 + '": 1}',
        '{"name": "' + "n" * 60_000 + '"}',
        '{"name": "' + "\\ud800" * 5000 + '"}',
        '{"max_batch_size": 1e400}',
        '{"version_policy": {"latest": {"num_versions": ' + "9" * 5000 + "}}}",
    ],
    ids=lambda text: text[:12],
)
def test_configurations_that_are_too_much_are_refused(text: str) -> None:
    """Those that are deep, long, or no text that can be sent back are refused like any other that is wrong."""
    with pytest.raises(RequestError) as caught:
        parse_override(text, "model")
    sent(caught.value)
