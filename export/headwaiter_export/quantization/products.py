"""The products of a graph that int8 can take over: activations times a constant matrix."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Matrix = NDArray[np.float32]

_MATRIX: Final = 2
# What the exporter calls a weight that it has transposed.
_ANONYMOUS = re.compile(r"val_\d+|onnx::.*")


@dataclass(frozen=True)
class Product:
    """One `MatMul` or `Gemm` with a constant fp32 matrix.

    Attributes:
        output: The value it makes; its identity in the graph.
        weight: Name of the matrix.
        label: The same for people: a weight that lost its name is called after its bias.
        shape: Rows and columns as the product sees them, `(d_in, d_out)`.
        transposed: Whether it is stored as `(d_out, d_in)`.
    """

    output: str
    weight: str
    label: str
    shape: tuple[int, int]
    transposed: bool


@dataclass(frozen=True)
class Site:
    """One value that is multiplied with constant matrices, and quantized once for all of them.

    Attributes:
        input: The value, `(..., d_in)`.
        products: What is made of it.
    """

    input: str
    products: tuple[Product, ...]

    @property
    def label(self) -> str:
        """Its weights, for people."""
        return ", ".join(product.label for product in self.products)

    @property
    def work(self) -> int:
        """Multiplications for each row."""
        return sum(product.shape[0] * product.shape[1] for product in self.products)


def find_sites(model: onnx.ModelProto) -> list[Site]:
    """Every site of a graph, in order."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = consumers(model)
    sites: dict[str, list[Product]] = defaultdict(list)
    for node in model.graph.node:
        product = _product(node, constants, readers)
        # A constant times a constant is for onnxruntime to fold.
        if product is not None and node.input[0] not in constants:
            sites[node.input[0]].append(product)
    return [Site(name, tuple(products)) for name, products in sites.items()]


def matrix(model: onnx.ModelProto, product: Product) -> Matrix:
    """A product's weight, `(d_in, d_out)`."""
    tensor = next(each for each in model.graph.initializer if each.name == product.weight)
    values: Matrix = numpy_helper.to_array(tensor)
    return values.T if product.transposed else values


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each value; a graph output counts as no reader."""
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    return readers


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:  # noqa: ANN401 (an attribute is of any type)
    """An attribute of a node."""
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def bias_of(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], readers: dict[str, list[onnx.NodeProto]]
) -> tuple[onnx.NodeProto, int] | None:
    """Where a product's constant bias stands: the node that adds it, and at which of its inputs."""
    if node.op_type == "Gemm":
        return (node, 2) if len(node.input) > _MATRIX and node.input[2] in constants else None
    after = readers[node.output[0]]
    if len(after) == 1 and after[0].op_type == "Add":
        at = next((at for at, name in enumerate(after[0].input) if name in constants), None)
        if at is not None and len(constants[after[0].input[at]].dims) == 1:
            return after[0], at
    return None


def _product(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], readers: dict[str, list[onnx.NodeProto]]
) -> Product | None:
    if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx"):
        return None
    tensor = constants.get(node.input[1])
    if tensor is None or len(tensor.dims) != _MATRIX or tensor.data_type != onnx.TensorProto.FLOAT:
        return None
    transposed = bool(attribute(node, "transB", 0))
    bias = bias_of(node, constants, readers)
    if node.op_type == "Gemm":
        plain = (
            not attribute(node, "transA", 0) and attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
        )
        has_bias = len(node.input) > _MATRIX and bool(node.input[2])
        if not plain or (has_bias and (bias is None or len(constants[node.input[2]].dims) != 1)):
            return None
    d_in, d_out = reversed(tensor.dims) if transposed else tensor.dims
    label = tensor.name
    if _ANONYMOUS.fullmatch(label) and bias is not None:
        adding, at = bias
        label = adding.input[at].removesuffix(".bias") + ".weight"
    return Product(node.output[0], tensor.name, label, (d_in, d_out), transposed)
