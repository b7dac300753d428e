"""Products in int8: what changes, what does not, and that no row feels another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from headwaiter_export.quantization.products import Site, find_sites, matrix
from headwaiter_export.quantization.rewrite import Plan, quantized_weight, rewritten
from headwaiter_export.quantization.smoothing import best_spread, best_zero
from headwaiter_export.runtime import Graph
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.torch

WIDTH, HIDDEN = 32, 48
Floats = NDArray[np.float32]


def _constants(seed: int = 0) -> dict[str, Floats]:
    generator = np.random.default_rng(seed)
    shapes = {"up": (WIDTH, HIDDEN), "up_bias": (HIDDEN,), "down": (WIDTH, HIDDEN), "down_bias": (WIDTH,)}
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _feed_forward(constants: dict[str, Floats], axes: tuple[str, ...] = ("rows",)) -> onnx.ModelProto:
    """`MatMul`, `Add`, `Relu`, and a `Gemm` with its weight stored the other way round, or rows of any rank."""
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["wide"]),
        helper.make_node("Add", ["wide", "up_bias"], ["biased"]),
        helper.make_node("Relu", ["biased"], ["hidden"]),
    ]
    if len(axes) == 1:
        nodes.append(helper.make_node("Gemm", ["hidden", "down", "down_bias"], ["y"], transB=1))
    else:
        constants = constants | {"down": constants["down"].T.copy()}
        nodes.append(helper.make_node("MatMul", ["hidden", "down"], ["narrow"]))
        nodes.append(helper.make_node("Add", ["narrow", "down_bias"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "feed_forward",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*axes, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*axes, WIDTH])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def _run(model: onnx.ModelProto, folder: Path, x: Floats) -> Floats:
    path = folder / "graph.onnx"
    path.write_bytes(model.SerializeToString())
    return np.asarray(Graph(path).run({"x": x})["y"])


def _rows(count: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def _all(model: onnx.ModelProto, plan: Plan | None = None) -> dict[Site, Plan]:
    return {site: plan or Plan() for site in find_sites(model)}


def test_sites_are_found_however_the_weight_is_stored() -> None:
    """`MatMul` and `Gemm` with transposed weight, each seen as `(d_in, d_out)`."""
    model = _feed_forward(_constants())
    sites = find_sites(model)
    assert [[product.shape for product in site.products] for site in sites] == [[(WIDTH, HIDDEN)], [(HIDDEN, WIDTH)]]
    assert [matrix(model, product).shape for site in sites for product in site.products] == [
        (WIDTH, HIDDEN),
        (HIDDEN, WIDTH),
    ]
    assert sites[0].work == WIDTH * HIDDEN


@pytest.mark.parametrize("axes", [("rows",), ("texts", "length"), ("a", "b", "c")])
def test_interface_stays_and_answers_are_near(axes: tuple[str, ...], tmp_path: Path) -> None:
    """Inputs of any rank; the same names, axes and, nearly, values."""
    model = _feed_forward(_constants(), axes)
    smaller = rewritten(model, _all(model), 8)
    onnx.checker.check_model(smaller)
    assert list(smaller.graph.input) == list(model.graph.input)
    assert list(smaller.graph.output) == list(model.graph.output)
    x = _rows(24).reshape({1: (24,), 2: (4, 6), 3: (2, 3, 4)}[len(axes)] + (WIDTH,))
    expected, found = _run(model, tmp_path, x), _run(smaller, tmp_path, x)
    assert found.shape == expected.shape
    assert 0 < np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_model_itself_is_not_changed() -> None:
    """Rewriting gives a copy."""
    model = _feed_forward(_constants())
    before = model.SerializeToString(deterministic=True)
    rewritten(model, _all(model), 8)
    assert model.SerializeToString(deterministic=True) == before


def test_same_graph_same_bytes() -> None:
    """Nothing of chance in it."""
    model = _feed_forward(_constants())
    first, second = (rewritten(model, _all(model), 8).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def _per_tensor(model: onnx.ModelProto) -> onnx.ModelProto:
    """What most tools do: one activation scale for all rows of a run."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for node in model.graph.node:
        for site in find_sites(model):
            for product in site.products:
                if node.output[0] == product.output:
                    levels, scale = quantized_weight(matrix(model, product), 8)
                    constants: dict[str, NDArray[Any]] = {f"{product.output}_q": levels, f"{product.output}_s": scale}
                    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
                    bias = list(node.input[2:])
                    node.op_type, node.domain = "DynamicQuantizeMatMul", "com.microsoft"
                    del node.attribute[:]
                    node.input[:] = [node.input[0], *constants, *(["", *bias] if bias else [])]
                    break
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def _difference_alone(model: onnx.ModelProto, folder: Path, x: Floats) -> float:
    together = _run(model, folder, x)
    return max(float(np.abs(_run(model, folder, x[at : at + 1])[0] - together[at]).max()) for at in range(len(x)))


def test_rows_of_any_magnitude_do_not_feel_one_another(tmp_path: Path) -> None:
    """From 1e-6 to 1e6 in one batch: each row as alone, and as near to fp32 as its own size allows."""
    model = _feed_forward(
        _constants() | {"up_bias": np.zeros(HIDDEN, np.float32), "down_bias": np.zeros(WIDTH, np.float32)}
    )
    x = _rows(13) * np.logspace(-6, 6, 13, dtype=np.float32)[:, None]
    smaller = rewritten(model, _all(model), 8)
    together, expected = _run(smaller, tmp_path, x), _run(model, tmp_path, x)
    for row in range(len(x)):
        alone = _run(smaller, tmp_path, x[row : row + 1])[0]
        np.testing.assert_array_equal(together[row], alone)
        assert np.abs(alone - expected[row]).max() < 0.03 * np.abs(expected[row]).max()


def test_one_scale_for_all_rows_would_be_seen(tmp_path: Path) -> None:
    """Plain dynamic quantization fails the check that ours passes."""
    model = _feed_forward(_constants())
    x = _rows(9)
    assert _difference_alone(_per_tensor(model), tmp_path, x) > 1e-3
    assert _difference_alone(rewritten(model, _all(model), 8), tmp_path, x) <= 1e-6


def test_zero_rows_stay_zero(tmp_path: Path) -> None:
    """Nothing is divided by 0: with no bias a row of zeros gives exactly zeros, beside rows that are not."""
    model = _feed_forward(
        _constants() | {"up_bias": np.zeros(HIDDEN, np.float32), "down_bias": np.zeros(WIDTH, np.float32)}
    )
    x = np.concatenate([np.zeros((2, WIDTH), np.float32), _rows(2)])
    smaller = rewritten(model, _all(model), 8)
    scale = next(node.output[0] for node in smaller.graph.node if node.op_type == "Max")
    smaller.graph.output.append(helper.make_empty_tensor_value_info(scale))
    path = tmp_path / "graph.onnx"
    path.write_bytes(smaller.SerializeToString())
    values = Graph(path).run({"x": x})
    assert (values[scale] > 0).all()
    found = values["y"]
    assert not found[:2].any()
    assert np.isfinite(found).all()
    assert found[2:].any()


def test_values_down_to_the_bound_are_represented(tmp_path: Path) -> None:
    """Rows with next to nothing above 0 still have room for what is below it."""
    model = _feed_forward(_constants())
    first = find_sites(model)[0]
    x = np.random.default_rng(2).uniform(-0.17, 0.01, (20, WIDTH)).astype(np.float32)
    expected = _run(model, tmp_path, x)
    found = _run(rewritten(model, {first: Plan(zero=16, lowest=-0.17)}, 8), tmp_path, x)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_weights_that_stay_fp32_are_untouched(tmp_path: Path) -> None:
    """The same initializer and node as before, and only the other one is quantized."""
    constants = _constants()
    model = _feed_forward(constants)
    first, second = find_sites(model)
    smaller = rewritten(model, {first: Plan()}, 8)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in smaller.graph.initializer}
    np.testing.assert_array_equal(stored["down"], constants["down"])
    assert "up" not in stored
    kept = [node for node in smaller.graph.node if node.output[0] == second.products[0].output]
    assert [node.op_type for node in kept] == ["Gemm"]
    assert sum(node.op_type == "MatMulIntegerToFloat" for node in smaller.graph.node) == 1
    x = _rows(5)
    assert np.abs(_run(smaller, tmp_path, x) - _run(model, tmp_path, x)).max() > 0
    assert rewritten(model, {}, 8) == model


def test_seven_bits_leave_room_for_pairs_of_products() -> None:
    """Two products of the largest uint8 and a 7-bit weight fit 16 bits, which is faster; with 8 bits they would not."""
    weights = _rows(64)
    for bits, fits in ((7, True), (8, False)):
        levels, scale = quantized_weight(weights, bits)
        assert levels.min() >= -(2 ** (bits - 1) - 1)
        assert (255 * 2 * int(np.abs(levels).max()) <= 32767) is fits
        np.testing.assert_allclose(levels * scale, weights, atol=float(scale.max()) / 2 * 1.001)


def test_smoothing_makes_outlier_channels_cheap(tmp_path: Path) -> None:
    """A channel a hundred times the others costs them their levels, unless it is divided."""
    constants = _constants()
    constants["up"][3] /= 100
    model = _feed_forward(constants)
    x = _rows(200)
    x[:, 3] *= 100
    first = find_sites(model)[0]
    expected = _run(model, tmp_path, x)
    spread = best_spread(x, matrix(model, first.products[0]))
    errors = [
        float(np.square(_run(rewritten(model, {first: plan}, 8), tmp_path, x) - expected).mean())
        for plan in (Plan(), Plan(spread=spread))
    ]
    assert spread[3] > 10 * np.median(spread)
    assert errors[1] < errors[0] / 20


def test_values_of_one_sign_get_most_of_the_levels(tmp_path: Path) -> None:
    """A ReLU's output needs no levels below 0, GELU's few; values down to the bound are represented."""
    assert best_zero(np.array([1.0, 2.0], np.float32), 0.0).zero == 0
    gelu = best_zero(np.full(9, 3.0, np.float32), -0.17)
    assert 8 <= gelu.zero <= 24
    model = _feed_forward(_constants())
    second = find_sites(model)[1]
    x = _rows(50)
    expected = _run(model, tmp_path, x)
    errors = [
        float(np.square(_run(rewritten(model, {second: plan}, 8), tmp_path, x) - expected).mean())
        for plan in (Plan(), Plan(zero=0))
    ]
    assert errors[1] < errors[0] / 1.5
