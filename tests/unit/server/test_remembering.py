"""Two questions are the same exactly when all is the same that an answer depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from headwaiter_server.batching.task import EncodingTask, RunAnswer, TensorTask
from headwaiter_server.encoding import Encoding
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.sequence import GenerationTask
from headwaiter_server.model.contract import Array
from headwaiter_server.model.tensors import TensorRows
from headwaiter_server.pipeline.remembering import kind_of
from hypothesis import given
from hypothesis import strategies as st

NUMBERS = st.lists(st.integers(0, 3), max_size=4)
TASKS = st.one_of(
    st.builds(EncodingTask, st.builds(Encoding, NUMBERS, st.none() | NUMBERS), st.booleans()),
    st.builds(
        GenerationTask,
        st.builds(Encoding, NUMBERS, st.none() | NUMBERS),
        st.builds(
            Decoding,
            max_new_tokens=st.integers(1, 2),
            temperature=st.sampled_from([0.0, 0.5]),
            seed=st.none() | st.integers(0, 1),
            stop=st.sampled_from([(), ("a",), ("a", "b")]),
            stop_token_ids=st.frozensets(st.sampled_from([1, 9, 17]), max_size=3),
            logprobs=st.none() | st.integers(0, 1),
        ),
    ),
)


def digest(task: object) -> bytes:
    return kind_of(task).digest(task)


def tensors(arrays: Mapping[str, Array], *wanted: str) -> TensorTask:
    return TensorTask(TensorRows(arrays, 1, None), wanted or ("out",))


@given(TASKS, TASKS)
def test_texts_are_the_same_when_their_tokens_are(one: EncodingTask, other: EncodingTask) -> None:
    """Ids, type ids and what is wanted of them; neither where the tokens stood, nor whether a text was cut."""
    if type(one) is type(other):  # a model has tasks of one kind
        assert (digest(one) == digest(other)) is (one == other)
    cut = Encoding(one.source.ids, one.source.type_ids, truncated=True, offsets=[(0, 1)])
    assert digest(replace(one, source=cut)) == digest(one)


ARRAYS = st.one_of(
    st.lists(st.sampled_from(["", "a", "b", "ab", "ä", "\0"]), max_size=3).map(lambda each: np.array(each, object)),
    st.builds(
        lambda numbers, dtype, row: np.array([numbers] if row else numbers, dtype),
        NUMBERS,
        st.sampled_from([np.int32, np.int64, np.float32, np.uint16, np.bool_]),
        st.booleans(),
    ),
)
INPUTS = st.dictionaries(st.sampled_from(["a", "b", "ab"]), ARRAYS, max_size=2)
WANTED = st.lists(st.sampled_from(["x", "y", "xy"]), min_size=1, max_size=2)


@given(INPUTS, WANTED, INPUTS, WANTED)
def test_tensors_are_the_same_when_all_of_them_are(
    one: dict[str, Array], wanted: list[str], other: dict[str, Array], wanted_of_other: list[str]
) -> None:
    """Names, types, shapes and elements of all inputs, and the outputs that are wanted."""
    same = (
        wanted == wanted_of_other
        and one.keys() == other.keys()
        and all(
            (each.dtype, each.shape, each.tolist()) == (other[name].dtype, other[name].shape, other[name].tolist())
            for name, each in one.items()
        )
    )
    assert (digest(tensors(one, *wanted)) == digest(tensors(other, *wanted_of_other))) is same


def test_order_and_layout_of_inputs_do_not_matter() -> None:
    """Inputs in another order, views, and arrays whose elements lie anywhere are the same question."""
    numbers = np.arange(12, dtype=np.int64).reshape(3, 4)
    scattered = np.zeros((3, 8), np.int64)[:, ::2]
    scattered[:] = numbers
    unaligned = np.frombuffer(b"x" + numbers.tobytes(), np.int64, offset=1).reshape(3, 4)
    expected = digest(tensors({"a": numbers, "b": np.array(1.0)}))
    for each in (scattered, unaligned, np.asfortranarray(numbers)):
        assert digest(tensors({"b": np.array(1.0), "a": each})) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.array(["a", "bc"], object), np.array(["ab", "c"], object)),
        (np.array([["a"], ["b"]], object), np.array(["a", "b"], object)),
        (np.zeros((0, 3), np.float32), np.zeros((0, 4), np.float32)),
        (np.array([0.0]), np.array([-0.0])),
        (np.array([1], np.uint16), np.array([1], np.float16)),
    ],
    ids=["strings", "rows", "no rows", "signs", "types"],
)
def test_near_misses_are_different(one: Array, other: Array) -> None:
    """Boundaries, shapes, signs and types are told apart."""
    assert digest(tensors({"a": one})) != digest(tensors({"a": other}))


def test_kept_tensors_cannot_be_altered_and_keep_nothing_else() -> None:
    """Part of a larger array is copied, a whole one is not; dicts are each caller's own; strings are counted."""
    run = np.arange(10, dtype=np.float32)
    whole, strings = np.ones((1000,), np.float32), np.array([b"x" * 1000], object)
    kind = kind_of(tensors({}))
    answer = RunAnswer({"part": run[2:4], "whole": whole, "strings": strings}, 0.0, 0.0, 1, 1, 1)
    sealed, size = kind.sealed(answer)
    run[:] = 0
    assert sealed.values["part"].tolist() == [2.0, 3.0]
    assert sealed.values["whole"] is whole
    assert 4008 + 1000 < size < 4008 + 2000
    for array in sealed.values.values():
        assert not array.flags.writeable
    kind.given(sealed).values.clear()
    assert len(sealed.values) == 3
