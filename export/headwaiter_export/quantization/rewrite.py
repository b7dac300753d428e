"""A graph with some of its products in int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from headwaiter_export.quantization.attention import make_sums_exact
from headwaiter_export.quantization.products import Matrix, Product, Site, matrix

_RANK_OF_ROWS: Final = 2
# Below any scale that matters, and a divisor for rows of zeros.
_SMALLEST_SCALE: Final = 1e-30
_MIDDLE: Final = 128
_LARGEST: Final = 255
_BIAS: Final = 2
_CONTRIB: Final = "com.microsoft"


@dataclass(frozen=True)
class Plan:
    """How the rows of one site become uint8.

    Attributes:
        spread: `(d_in,)`, what each channel is divided by, and its row of the weights multiplied with, so that no
            channel alone decides a row's scale (SmoothQuant, arXiv 2211.10438); None leaves the channels as they are.
        zero: The uint8 that stands for 0. At 128 values of both signs have 127 levels each; a smaller one is for values
            bounded from below, such as GELU's, where it leaves the levels to those above 0.
        lowest: That bound, where there is one: scales are large enough for it.
    """

    spread: NDArray[np.float32] | None = None
    zero: int = 128
    lowest: float = 0.0


def quantized_weight(weights: Matrix, bits: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Whole numbers `(d_in, d_out)` and the scale of each column, `(d_out,)`; symmetric, so 0 stays 0."""
    largest = 2 ** (bits - 1) - 1
    scale = np.abs(weights).max(0) / largest
    scale[scale == 0] = 1.0
    return np.clip(np.round(weights / scale), -largest, largest).astype(np.int8), scale.astype(np.float32)


def rewritten(
    model: onnx.ModelProto, sites: Mapping[Site, Plan], bits: int, *, exact_attention: bool = True
) -> onnx.ModelProto:
    """A copy of a graph in which the products of `sites` are int8; everything else is as it was.

    Each row `x` of a site becomes `q = round(x / s) + 128` with `s = max|x| / 127` of that row alone; the product is
    `s * (q - 128) W`. Rows of zeros have a scale above 0 and stay zeros.

    Args:
        model: The fp32 graph; not changed.
        sites: What to quantize, and how.
        bits: Of the weights, 8 or 7.
        exact_attention: Without it rounding ties a text to its batch-mates; see `attention`.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    writer = _Writer(model, bits)
    writer.write(sites)
    if sites and exact_attention:
        make_sums_exact(model)
    return model


class _Writer:
    """Builds the new list of nodes, and the constants they read."""

    def __init__(self, model: onnx.ModelProto, bits: int) -> None:
        self._model, self._bits = model, bits
        self._nodes: list[onnx.NodeProto] = []
        self._new: dict[str, onnx.TensorProto] = {}
        self._ranks = _ranks(model)

    def write(self, sites: Mapping[Site, Plan]) -> None:
        """Replace the products of `sites` in the model's list of nodes."""
        where = {product.output: (site, product) for site in sites for product in site.products}
        rows: dict[Site, _Rows] = {}
        for node in self._model.graph.node:
            site, product = where.get(node.output[0], (None, None))
            if site is None or product is None:
                self._nodes.append(node)
                continue
            if site not in rows:
                rows[site] = self._quantize(site, sites[site])
            self._multiply(node, product, rows[site], sites[site].spread)
        graph = self._model.graph
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        del graph.node[:]
        graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
        kept = [
            onnx.TensorProto.FromString(each.SerializeToString()) for each in graph.initializer if each.name in read
        ]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *self._new.values()])
        if sites and _CONTRIB not in {each.domain for each in self._model.opset_import}:
            self._model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))

    def _quantize(self, site: Site, plan: Plan) -> _Rows:
        """The nodes that make a site's rows uint8."""
        prefix, width = f"{site.input}/int8", site.products[0].shape[0]
        rows, leading = site.input, None
        if self._ranks.get(site.input) != _RANK_OF_ROWS:
            leading = self._node("Shape", [site.input], f"{prefix}/leading", start=0, end=-1)
            rows = self._node("Reshape", [rows, self._constant(f"int8/rows_of_{width}", [-1, width], np.int64)], prefix)
        if plan.spread is not None:
            inverse = self._constant(f"{prefix}/inverse_spread", 1 / plan.spread, np.float32)
            rows = self._node("Mul", [rows, inverse], f"{prefix}/spread")
        signed = plan.zero == _MIDDLE
        sizes = self._node("Abs", [rows], f"{prefix}/sizes") if signed else rows
        axis = self._constant("int8/last", [-1], np.int64)
        largest = self._node("ReduceMax", [sizes, axis], f"{prefix}/largest", keepdims=1)
        above = _LARGEST - plan.zero
        step = self._constant(f"int8/step_{above}", 1 / above, np.float32)
        scaled = self._node("Mul", [largest, step], f"{prefix}/unbounded")
        smallest = max(_SMALLEST_SCALE, -plan.lowest / plan.zero) if plan.zero else _SMALLEST_SCALE
        scale = self._node(
            "Max", [scaled, self._constant(f"{prefix}/smallest", smallest, np.float32)], f"{prefix}/scale"
        )
        flat = self._node("Reshape", [scale, self._constant("int8/flat", [-1], np.int64)], f"{prefix}/flat_scale")
        # As many zero points as rows, all the same, because quantizing by row asks for them.
        points = self._node(
            "Expand",
            [
                self._constant(f"int8/zero_{plan.zero}", [plan.zero], np.uint8),
                self._node("Shape", [flat], f"{prefix}/count"),
            ],
            f"{prefix}/zeros",
        )
        levels = self._node("QuantizeLinear", [rows, flat, points], f"{prefix}/levels", axis=0)
        return _Rows(levels, scale, self._constant(f"int8/zero_{plan.zero}", [plan.zero], np.uint8), leading)

    def _multiply(self, node: onnx.NodeProto, product: Product, rows: _Rows, spread: Matrix | None) -> None:
        """The nodes that take over one product."""
        weights = matrix(self._model, product)
        if spread is not None:
            weights = weights * spread[:, None]
        levels, scale = quantized_weight(weights, self._bits)
        prefix = f"{product.output}/int8"
        result = self._node(
            "MatMulIntegerToFloat",
            [
                rows.levels,
                self._constant(f"{prefix}/weight", levels, np.int8),
                self._constant("int8/one", 1.0, np.float32),
                self._constant(f"{prefix}/weight_scale", scale, np.float32),
                rows.zero_point,
            ],
            f"{prefix}/unscaled",
            domain=_CONTRIB,
        )
        steps: list[tuple[str, str]] = [("Mul", rows.scale)]
        if node.op_type == "Gemm" and len(node.input) > _BIAS and node.input[_BIAS]:
            steps.append(("Add", node.input[_BIAS]))
        if rows.leading is not None:
            width = self._constant(f"int8/width_{product.shape[1]}", [product.shape[1]], np.int64)
            steps.append(("Reshape", self._node("Concat", [rows.leading, width], f"{prefix}/shape", axis=0)))
        for at, (kind, operand) in enumerate(steps):
            name = product.output if at == len(steps) - 1 else f"{prefix}/{kind.lower()}"
            result = self._node(kind, [result, operand], name)

    def _node(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:  # noqa: ANN401 (of any type)
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def _constant(self, name: str, value: Any, dtype: Any) -> str:  # noqa: ANN401 (whatever numpy takes)
        if name not in self._new:
            self._new[name] = numpy_helper.from_array(np.ascontiguousarray(np.asarray(value, dtype)), name)
        return name


@dataclass(frozen=True)
class _Rows:
    """A site's rows in uint8: their values' names, and the leading axes to put back, if there were several."""

    levels: str
    scale: str
    zero_point: str
    leading: str | None


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Number of axes of each value, as far as it can be told."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }
