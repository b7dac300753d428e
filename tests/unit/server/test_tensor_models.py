"""Models of tensors: all types, rows that keep to their requests, and answers that nobody else has a part in."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from headwaiter_server.model.contract import Array, Cancellation, GraphTensor, TensorSpec
from headwaiter_server.model.datatypes import BY_NAME, DATATYPES
from headwaiter_server.model.tensors import TensorModel, Tensors, rows_of
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from .tensor_graphs import doubled, identity, spread, tensor_model

NAN, INFINITY = float("nan"), float("inf")


def run(model: TensorModel, *requests: Tensors, wanted: Sequence[tuple[str, ...]] | None = None) -> list[Tensors]:
    names = tuple(each.name for each in model.signature.outputs)
    return model.run(
        [rows_of(model.signature, each) for each in requests], wanted or [names] * len(requests), Cancellation()
    )


def of_type(datatype: str) -> TensorModel:
    spec = BY_NAME[datatype]
    inputs, outputs = [TensorSpec("x", datatype, (-1, 4))], [TensorSpec("y", datatype, (-1, 4))]
    return tensor_model(identity(spec.onnx_number), inputs=inputs, outputs=outputs)


def some(datatype: str, rows: int) -> Array:
    """Rows of all bits that a type has room for, so that none is lost on the way; text for strings."""
    spec = BY_NAME[datatype]
    if datatype == "BYTES":
        words = np.array(["", "a", "é", "with\0zero", "語", " ", "b'x'", "long " * 50], object)
        return np.resize(words, (rows, 4))
    if datatype == "BOOL":
        return np.resize(np.array([True, False, False]), (rows, 4))
    bits = np.random.default_rng(rows).bytes(rows * 4 * spec.size_bytes)
    return np.frombuffer(bits, spec.dtype).reshape(rows, 4)


def as_given(datatype: str, answer: Array) -> Any:  # noqa: ANN401 - of any type
    if datatype != "BYTES":
        return answer.tobytes()
    assert all(isinstance(each, bytes) for each in answer.ravel())
    return [each.decode() for each in answer.ravel()]


@pytest.mark.parametrize("datatype", [each.name for each in DATATYPES])
def test_every_type_comes_through_alone_and_together(datatype: str) -> None:
    """Bit for bit, from read-only views, by the type's own name for numpy."""
    model, rows = of_type(datatype), [some(datatype, count) for count in (1, 3, 2)]
    expected = [each.ravel().tolist() if datatype == "BYTES" else each.tobytes() for each in rows]
    together = run(model, *({"x": each} for each in rows))
    alone = [run(model, {"x": each})[0] for each in rows]
    for answers in (together, alone):
        assert [as_given(datatype, each["y"]) for each in answers] == expected
        assert {each["y"].dtype for each in answers} == {BY_NAME[datatype].dtype}
        assert [each["y"].shape for each in answers] == [each.shape for each in rows]


def test_unaligned_views_are_read() -> None:
    values = np.arange(8, dtype=np.float32)
    view = np.frombuffer(b"?" + values.tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 4)
    assert not view.flags.aligned
    assert run(of_type("FP32"), {"x": view})[0]["y"].tolist() == values.reshape(2, 4).tolist()


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from([("double", "sum"), ("sum", "double"), ("sum",), ("double",)])),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 6),
)
def test_row_i_belongs_to_request_i(requests: list[tuple[int, tuple[str, ...]]], length: int) -> None:
    """For any mix of row counts, and whichever outputs each wants."""
    generator = np.random.default_rng(0)
    inputs = [generator.standard_normal((rows, length)).astype(np.float32) for rows, _ in requests]
    answers = run(DOUBLED, *({"x": each} for each in inputs), wanted=[names for _, names in requests])
    for x, (_, names), answer in zip(inputs, requests, answers, strict=True):
        assert tuple(answer) == names
        expected = {"double": 2 * x, "sum": x.sum(1)}
        for name in names:
            np.testing.assert_allclose(answer[name], expected[name], rtol=1e-5, atol=1e-6)


DOUBLED = tensor_model(doubled())


def test_answer_does_not_keep_those_of_its_run() -> None:
    """A view would, until the last call of the run is over."""
    (small, large) = run(DOUBLED, {"x": np.ones((1, 2), np.float32)}, {"x": np.ones((63, 2), np.float32)})
    assert small["double"].base is None
    seen = weakref.ref(large["double"])
    del large
    gc.collect()
    assert seen() is None
    assert small["double"].tolist() == [[2, 2]]


def test_answer_of_a_run_alone_is_the_graphs_own() -> None:
    class Graph:
        inputs, outputs = ["x"], ["y"]
        input_tensors: tuple[GraphTensor, ...] = ()
        output_tensors: tuple[GraphTensor, ...] = ()
        made: list[Array]

        def run(
            self, outputs: Sequence[str], feeds: Mapping[str, Array], cancellation: Cancellation | None = None
        ) -> list[Array]:
            assert feeds["x"] is given_array
            self.made = [given_array + len(outputs) for _ in outputs]
            return self.made

    graph, given_array = Graph(), np.ones((2, 4), np.float32)
    template = of_type("FP32").signature
    answer = run(TensorModel(graph, template), {"x": given_array})[0]
    assert answer["y"] is graph.made[0]


@pytest.mark.parametrize("bad", [NAN, INFINITY, -INFINITY])
def test_mate_of_no_numbers_spoils_nobody(bad: float) -> None:
    """Also where the graph has one for all: each is then answered as if it were alone, itself too."""
    specs = {"inputs": [TensorSpec("x", "FP32", (-1, 4))], "outputs": [TensorSpec("y", "FP32", (-1, 4))]}
    model = tensor_model(spread(), **specs)  # type: ignore[arg-type]  # of two kinds
    good, spoiled = np.arange(8, dtype=np.float32).reshape(2, 4), np.array([[1, bad, 2, 3]], np.float32)
    answers = run(model, {"x": good}, {"x": spoiled}, {"x": good + 1})
    assert answers[0]["y"].tolist() == good.tolist()
    assert answers[2]["y"].tolist() == (good + 1).tolist()
    np.testing.assert_array_equal(answers[1]["y"], run(model, {"x": spoiled})[0]["y"])


@pytest.mark.parametrize(("datatype", "bits"), [("FP16", 0x7E00), ("BF16", 0x7FC0), ("FP64", 0x7FF8 << 48)])
def test_numbers_that_are_none_are_passed_on_to_who_sent_them(datatype: str, bits: int) -> None:
    model, size = of_type(datatype), BY_NAME[datatype].size_bytes
    nan = np.full((1, 4), bits, f"u{size}").view(BY_NAME[datatype].dtype)
    zero = np.zeros((1, 4), BY_NAME[datatype].dtype)
    answers = run(model, {"x": zero}, {"x": nan})
    assert [each["y"].tobytes() for each in answers] == [zero.tobytes(), nan.tobytes()]


def test_another_number_of_rows_is_no_answer() -> None:
    graph = identity()
    graph.graph.node[0].CopyFrom(helper.make_node("Concat", ["x", "x"], ["y"], axis=0))
    specs = {"inputs": [TensorSpec("x", "FP32", (-1, 4))], "outputs": [TensorSpec("y", "FP32", (-1, 4))]}
    model = tensor_model(graph, **specs)  # type: ignore[arg-type]  # of two kinds
    row = {"x": np.ones((1, 4), np.float32)}
    with pytest.raises(ValueError, match=r"output y of shape \(4, 4\) for 2 rows"):
        run(model, row, row)


def test_likeness_is_of_all_axes_but_the_first_and_of_which_inputs_there_are() -> None:
    inputs = [TensorSpec("x", "FP32", (-1, -1)), TensorSpec("k", "FP32", (-1, 1), optional=True)]
    signature = tensor_model(doubled(), inputs=inputs).signature

    def likeness(**arrays: tuple[int, ...]) -> object:
        return rows_of(signature, {name: np.zeros(shape, np.float32) for name, shape in arrays.items()}).likeness

    assert likeness(x=(1, 3)) == likeness(x=(7, 3))
    assert likeness(x=(1, 3)) != likeness(x=(1, 4))
    assert likeness(x=(1, 3)) != likeness(x=(1, 3), k=(1, 1))
    assert likeness(k=(1, 1), x=(1, 3)) == likeness(x=(2, 3), k=(2, 1))
