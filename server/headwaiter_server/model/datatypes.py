"""Types of a tensor's elements: one table for every name that they go by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from headwaiter_proto.inference import model_config_pb2

BYTES: Final = "BYTES"
BF16: Final = "BF16"


@dataclass(frozen=True, slots=True)
class Datatype:
    """What the elements of a tensor are.

    Attributes:
        name: As the Open Inference Protocol names it: "FP32".
        dtype: What numpy holds it in. BYTES are `bytes` objects; BF16, which numpy does not know, is its 16 bits.
        size_bytes: Of one element; 0 where elements differ.
        onnx_type: How onnxruntime names a tensor of it: "tensor(float)".
        onnx_number: Its number in `onnx.TensorProto.DataType`.
        config: Its number in a model's configuration.
        manifest_name: How a bundle's manifest names it: "float32".
    """

    name: str
    dtype: np.dtype[Any]
    size_bytes: int
    onnx_type: str
    onnx_number: int
    config: model_config_pb2.DataType
    manifest_name: str


def _number(
    name: str, numpy_name: str, onnx_name: str, onnx_number: int, config: model_config_pb2.DataType
) -> Datatype:
    # The wire is little-endian, and so is every processor that onnxruntime runs on.
    dtype = np.dtype(numpy_name)
    return Datatype(name, dtype, dtype.itemsize, f"tensor({onnx_name})", onnx_number, config, numpy_name)


DATATYPES: Final[tuple[Datatype, ...]] = (
    _number("BOOL", "bool", "bool", 9, model_config_pb2.TYPE_BOOL),
    _number("INT8", "int8", "int8", 3, model_config_pb2.TYPE_INT8),
    _number("INT16", "int16", "int16", 5, model_config_pb2.TYPE_INT16),
    _number("INT32", "int32", "int32", 6, model_config_pb2.TYPE_INT32),
    _number("INT64", "int64", "int64", 7, model_config_pb2.TYPE_INT64),
    _number("UINT8", "uint8", "uint8", 2, model_config_pb2.TYPE_UINT8),
    _number("UINT16", "uint16", "uint16", 4, model_config_pb2.TYPE_UINT16),
    _number("UINT32", "uint32", "uint32", 12, model_config_pb2.TYPE_UINT32),
    _number("UINT64", "uint64", "uint64", 13, model_config_pb2.TYPE_UINT64),
    _number("FP16", "float16", "float16", 10, model_config_pb2.TYPE_FP16),
    _number("FP32", "float32", "float", 1, model_config_pb2.TYPE_FP32),
    _number("FP64", "float64", "double", 11, model_config_pb2.TYPE_FP64),
    Datatype(BF16, np.dtype(np.uint16), 2, "tensor(bfloat16)", 16, model_config_pb2.TYPE_BF16, "bfloat16"),
    Datatype(BYTES, np.dtype(object), 0, "tensor(string)", 8, model_config_pb2.TYPE_STRING, "object"),
)

BY_NAME: Final[Mapping[str, Datatype]] = {each.name: each for each in DATATYPES}
BY_ONNX_TYPE: Final[Mapping[str, Datatype]] = {each.onnx_type: each for each in DATATYPES}
BY_CONFIG: Final[Mapping[int, Datatype]] = {each.config: each for each in DATATYPES}
