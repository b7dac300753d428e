"""Runs in onnxruntime. Beside the file that opens its sessions, no other imports it."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument as _InvalidArgument

from headwaiter_server.errors import BundleError
from headwaiter_server.model.contract import Array, Cancellation, FloatArray, GraphTensor, RefusedInputError
from headwaiter_server.model.datatypes import BF16, BY_NAME, BYTES
from headwaiter_server.model.session import RUNTIME_VERSION, open_session
from headwaiter_server.pacing import paced

# How often a run gives back what the arena holds and no run uses. No two mixes of texts are alike, and what it keeps
# for one hardly fits the next: it would grow for hours, ever more slowly, and keep what a single large run has taken.
_TRIM_SECONDS = 10.0
_TRIM = ("memory.enable_memory_arena_shrinkage", "cpu:0")

_BF16, _BYTES = BY_NAME[BF16], BY_NAME[BYTES]


class OnnxGraph:
    """A graph in an onnxruntime session on the CPU; implements `TensorGraph`."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._trims_at = time.monotonic() + _TRIM_SECONDS
        given = [_tensor(each) for each in session.get_inputs()]
        kept = [_tensor(each, optional=True) for each in session.get_overridable_initializers()]
        self.input_tensors = (*given, *kept)
        self.output_tensors = tuple(_tensor(each) for each in session.get_outputs())
        self.inputs = [each.name for each in given]
        self.outputs = [each.name for each in self.output_tensors]
        types = {each.name: each.onnx_type for each in (*self.input_tensors, *self.output_tensors)}
        # numpy has no such numbers: the runtime is to be told of them.
        self._bf16 = frozenset(name for name, onnx_type in types.items() if onnx_type == _BF16.onnx_type)

    @classmethod
    def load(
        cls,
        name: str,
        graph: bytes,
        threads: int,
        *,
        alone: bool = False,
        files: Mapping[str, bytes] | None = None,
    ) -> OnnxGraph:
        """Build a session.

        Args:
            name: For error messages.
            graph: The bytes of the ONNX file.
            threads: Threads that one run uses.
            alone: Whether nothing else runs beside its runs, so that their threads may take what they can get.
            files: Files with weights that the graph names. Others it does not get, wherever they lie.

        Raises:
            BundleError: onnxruntime refuses the graph.
        """
        opened = cls(open_session(name, graph, threads, alone=alone, files=files))
        if opened._bf16 and not hasattr(onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type"):
            raise BundleError(f"{name} takes or gives BF16, which onnxruntime {RUNTIME_VERSION} cannot be given")
        # What runs with BF16 has no texts, and what runs with texts gives no BF16.
        if opened._bf16 and any(
            each.onnx_type == _BYTES.onnx_type for each in (*opened.input_tensors, *opened.output_tensors)
        ):
            raise BundleError(
                f"{name} has tensors of BF16 and of BYTES, which onnxruntime does not take from Python both"
            )
        return opened

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, Array], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        """Compute the named outputs; see `Graph` and `TensorGraph`."""
        options = self._options(cancellation)
        try:
            if self._bf16:
                return self._run_values(outputs, feeds, options)
            return cast("list[FloatArray]", paced(partial(self._session.run, outputs, feeds, options)))
        except _InvalidArgument as error:
            raise RefusedInputError(str(error)) from error

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> OnnxBinding:
        """Say where inputs and outputs lie; see `BindableGraph`."""
        return OnnxBinding(self._session, inputs, outputs)

    def _options(self, cancellation: Cancellation | None) -> onnxruntime.RunOptions | None:
        now = time.monotonic()
        trims = now >= self._trims_at
        if cancellation is None and not trims:
            return None
        options = onnxruntime.RunOptions()
        if trims:
            self._trims_at = now + _TRIM_SECONDS
            options.add_run_config_entry(*_TRIM)
        if cancellation is not None:
            cancellation.arm(partial(setattr, options, "terminate", True))
        return options

    def _run_values(
        self, outputs: Sequence[str], feeds: Mapping[str, Array], options: onnxruntime.RunOptions | None
    ) -> list[Array]:
        of_type, of_numpy = (
            onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type,
            onnxruntime.OrtValue.ortvalue_from_numpy,
        )
        values = {
            name: of_type(np.ascontiguousarray(array), _BF16.onnx_number) if name in self._bf16 else of_numpy(array)
            for name, array in feeds.items()
        }
        computed = paced(partial(self._session.run_with_ort_values, outputs, values, options))
        return [
            _bits(value) if name in self._bf16 else value.numpy() for name, value in zip(outputs, computed, strict=True)
        ]


class OnnxBinding:
    """A graph on memory that is not its own; implements `BoundGraph`."""

    def __init__(
        self, session: onnxruntime.InferenceSession, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> None:
        self._binding = session.io_binding()
        # What is bound is an address: it must not go before this does. An array that is both is bound once.
        self._values: dict[tuple[int, tuple[int, ...]], onnxruntime.OrtValue] = {}
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, self._value(array))
        for name, array in outputs.items():
            self._binding.bind_ortvalue_output(name, self._value(array))
        self._work = partial(session.run_with_iobinding, self._binding)

    def give(self, name: str, values: Array) -> None:
        """Have an input read from elsewhere; see `BoundGraph`."""
        self._binding.bind_cpu_input(name, values)

    def run(self) -> None:
        """Compute the outputs; see `BoundGraph`."""
        paced(self._work)

    def _value(self, array: Array) -> onnxruntime.OrtValue:
        # The runtime would bind a copy of it, and nobody would ever see what is written there.
        if not array.flags.c_contiguous:
            raise ValueError("what is bound must lie in one piece")
        where = array.ctypes.data, array.shape
        if where not in self._values:
            self._values[where] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        return self._values[where]


def _tensor(node: Any, *, optional: bool = False) -> GraphTensor:  # noqa: ANN401 - onnxruntime types it so
    shape = tuple(None if axis is None or axis == "" else axis for axis in node.shape)
    return GraphTensor(node.name, node.type, shape, optional)


def _bits(value: onnxruntime.OrtValue) -> Array:
    """A copy of a tensor of BF16: the runtime has no way into numpy for it."""
    shape = value.shape()
    count = math.prod(shape)
    if not count:
        return np.empty(shape, np.uint16)
    return np.ctypeslib.as_array((ctypes.c_uint16 * count).from_address(value.data_ptr())).reshape(shape).copy()
