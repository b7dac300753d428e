"""The passes leave a graph's answers as they are and do what they are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from headwaiter_export.encoders.lean import lean
from headwaiter_export.naming import name_outputs
from numpy.typing import NDArray

pytestmark = pytest.mark.torch

_GENERATOR = np.random.default_rng(0)


def _model(text: str, **constants: NDArray[Any]) -> onnx.ModelProto:
    """A graph from the words of onnx's own parser, with shapes and with the given initializers."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 22]> g {text}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _run(model: onnx.ModelProto, **feeds: NDArray[Any]) -> list[NDArray[Any]]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answers: list[NDArray[Any]] = session.run(None, feeds)
    return answers


def _faster(model: onnx.ModelProto, **feeds: NDArray[Any]) -> onnx.ModelProto:
    """The graph after all passes, which must answer as before."""
    after = lean(model)
    for one, other in zip(_run(model, **feeds), _run(after, **feeds), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
    return after


def _kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def _normal(*shape: int) -> NDArray[np.float32]:
    return _GENERATOR.standard_normal(shape, np.float32)


ATTENTION = """(int64[tokens] ids) => (float[tokens, 8] y) {
    row = Unsqueeze(ids, zero)
    x = Gather <axis = 0> (table, row)
    q0 = MatMul(x, wq)
    q1 = Add(q0, q.bias)
    k0 = MatMul(x, wk)
    k1 = Add(k0, k.bias)
    v0 = MatMul(x, wv)
    v1 = Add(v0, v.bias)
    q2 = Reshape(q1, heads)
    q3 = Transpose <perm = [0, 2, 1, 3]> (q2)
    q = Mul(q3, factor)
    k2 = Reshape(k1, heads)
    k = Transpose <perm = [0, 2, 3, 1]> (k2)
    v2 = Reshape(v1, heads)
    v = Transpose <perm = [0, 2, 1, 3]> (v2)
    scores = MatMul(q, k)
    weights = Softmax <axis = -1> (scores)
    mixed = MatMul(weights, v)
    back = Transpose <perm = [0, 2, 1, 3]> (mixed)
    merged = Reshape(back, width)
    o = MatMul(merged, wo)
    sum = Add(o, x)
    normed = LayerNormalization <axis = -1> (sum, gain)
    y = Squeeze(normed, zero)
}"""


def _attention() -> onnx.ModelProto:
    weights = {name: _normal(8, 8) for name in ("wq", "wk", "wv", "wo")}
    biases = {name: _normal(8) for name in ("q.bias", "k.bias", "v.bias")}
    shapes = {"heads": np.array([1, -1, 2, 4]), "width": np.array([1, -1, 8]), "zero": np.array([0])}
    more = {"table": _normal(20, 8), "factor": np.array(0.5, np.float32), "gain": _normal(8)}
    text = ATTENTION.replace("q.bias", "qbias").replace("k.bias", "kbias").replace("v.bias", "vbias")
    renamed = {name.replace(".", ""): array for name, array in biases.items()}
    return _model(text, **weights, **renamed, **shapes, **more)


def test_attention_becomes_matrices() -> None:
    """One product for query, key and value, no factor, and no axis of one row anywhere."""
    after = _faster(_attention(), ids=np.array([3, 1, 4, 1, 5]))
    kinds = _kinds(after)
    assert kinds.count("MatMul") == 4
    assert kinds.count("Split") == 1
    assert not {"Mul", "Squeeze", "Unsqueeze"} & set(kinds)
    joined = next(node for node in after.graph.node if node.op_type == "MatMul")
    sizes = {tensor.name: list(tensor.dims) for tensor in after.graph.initializer}
    assert sizes[joined.input[1]] == [8, 24]
    assert not any(
        value.type.tensor_type.shape.dim[0].dim_value == 1 for value in (*after.graph.value_info, *after.graph.output)
    )


def test_weights_are_named_after_their_bias() -> None:
    """What the exporter calls val_1 is called like the layer it came from."""
    body = "(float[n, 4] x) => (float[n, 3] y) { a = MatMul(x, val_1)\n y = Add(a, bias) }"
    model = _model(body, val_1=_normal(4, 3), bias=_normal(3))
    # The parser takes no dots.
    model.graph.node[1].input[1] = model.graph.initializer[1].name = "layer.0.dense.bias"
    after = _faster(model, x=_normal(2, 4))
    assert {tensor.name for tensor in after.graph.initializer} == {"layer.0.dense.weight", "layer.0.dense.bias"}


@pytest.mark.parametrize(
    "body",
    [
        # Read elsewhere: the other reader must see the product without the factor.
        "a = MatMul(x, w)\n b = Mul(a, c)\n y = Add(a, b)",
        # Behind something that is not linear.
        "a = MatMul(x, w)\n t = Tanh(a)\n y = Mul(t, c)",
        # A number over the product, not the product over a number.
        "a = MatMul(x, w)\n y = Div(c, a)",
        # A factor for each column.
        "a = MatMul(x, w)\n y = Mul(a, columns)",
        # Not a constant at all.
        "a = MatMul(x, w)\n y = Mul(a, x)",
    ],
)
def test_factor_stays_where_it_must(body: str) -> None:
    """A factor that is not the layer's alone is left where it is."""
    constants = {"w": _normal(3, 3), "c": np.array(3, np.float32), "columns": _normal(3)}
    used = {name: array for name, array in constants.items() if f" {name})" in body or f"({name}," in body}
    model = _model(f"(float[n, 3] x) => (float[n, 3] y) {{ {body} }}", **used)
    assert _kinds(_faster(model, x=_normal(2, 3))) == _kinds(model)


def test_factor_of_scores_goes_into_the_query() -> None:
    """A division behind the product of query and key is folded too, and the shared key is not touched."""
    body = """(float[n, 4] x) => (float[n, n] y, float[4, n] kt) {
        q = MatMul(x, wq)
        k = MatMul(x, wk)
        kt = Transpose <perm = [1, 0]> (k)
        s = MatMul(q, kt)
        d = Div(s, root)
        y = Softmax <axis = -1> (d)
    }"""
    model = _model(body, wq=_normal(4, 4), wk=_normal(4, 4), root=np.array(2, np.float32))
    assert "Div" not in _kinds(_faster(model, x=_normal(3, 4)))


def test_layers_of_different_inputs_are_not_joined() -> None:
    """Only what reads the same value becomes one, and a graph's own output keeps its layer."""
    body = """(float[n, 4] x, float[n, 4] z) => (float[n, 4] y, float[n, 4] w) {
        a = MatMul(x, first)
        b = MatMul(z, second)
        w = MatMul(x, third)
        y = Add(a, b)
    }"""
    model = _model(body, first=_normal(4, 4), second=_normal(4, 4), third=_normal(4, 4))
    assert _kinds(_faster(model, x=_normal(2, 4), z=_normal(2, 4))).count("MatMul") == 3


@pytest.mark.parametrize(
    "body",
    [
        # The axis is summed over.
        "r = Unsqueeze(x, zero)\n y = ReduceSum <keepdims = 0> (r, zero)",
        # A shape with a 0 copies an axis by its number.
        "r = Unsqueeze(x, zero)\n y = Reshape(r, copies)",
        # The row is put beside itself.
        "r = Unsqueeze(x, zero)\n two = Concat <axis = 0> (r, r)\n y = Reshape(two, wide)",
    ],
)
def test_axis_stays_where_it_counts(body: str) -> None:
    """Where a node needs the leading axis, it stays."""
    constants = {"zero": np.array([0]), "copies": np.array([-1, 0, 2]), "wide": np.array([-1, 2])}
    shape = "float[n, m, k]" if "copies" in body else "float[n, m]"
    used = {name: array for name, array in constants.items() if f" {name})" in body}
    model = _model(f"(float[n, 2] x) => ({shape} y) {{ {body} }}", **used)
    assert "Unsqueeze" in _kinds(_faster(model, x=_normal(3, 2)))


def test_axis_goes_past_rotations_and_parts() -> None:
    """Slices, joins and further axes, counted from either end, are counted anew."""
    body = """(float[n, 6] x) => (float[2, n, 2] y) {
        r = Unsqueeze(x, zero)
        parts = Reshape(r, three)
        first = Slice(parts, from0, to1, minus2)
        second = Slice(parts, to1, to2, two)
        a = Squeeze(first, minus2)
        b = Squeeze(second, two)
        turned = Neg(b)
        both = Concat <axis = 2> (a, turned)
        split0, split1 = Split <axis = 2, num_outputs = 2> (both)
        u0 = Unsqueeze(split0, one)
        u1 = Unsqueeze(split1, one)
        four = Concat <axis = 1> (u0, u1)
        y = Squeeze(four, zero)
    }"""
    numbers = {"zero": [0], "one": [1], "two": [2], "minus2": [-2], "from0": [0], "to1": [1], "to2": [2]}
    model = _model(body, **{name: np.array(value) for name, value in numbers.items()}, three=np.array([1, -1, 3, 2]))
    after = _faster(model, x=_normal(5, 6))
    assert _kinds(after).count("Unsqueeze") == 2
    assert not any(len(value.type.tensor_type.shape.dim) > 3 for value in after.graph.value_info)


def test_output_may_be_called_like_a_value_inside() -> None:
    """Values inside give way to the names that outputs are to have."""
    model = _model("(float[n] x) => (float[n] out) { scores = Neg(x)\n scores_0 = Neg(scores)\n out = Neg(scores_0) }")
    name_outputs(model, ["scores"])
    (answer,) = _run(model, x=_normal(3))
    assert [value.name for value in model.graph.output] == ["scores"]
    assert answer.shape == (3,)
