"""onnxruntime. No other file imports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import onnxruntime

from headwaiter_server.errors import BundleError
from headwaiter_server.model.contract import Array, Cancellation, FloatArray

RUNTIME_VERSION: str = onnxruntime.__version__

_FATAL_ONLY = 4
# How long a thread that shares a run looks for its part of the next layer before it goes to sleep, in microseconds: a
# wake-up costs as much as a layer of a short text. Measured with MiniLM on 2 cores: 100 takes a fifth less time for 8
# to 64 tokens than none; more than 300 brings nothing.
_SPIN_US = 300
# Runtimes before this one know no bound, and would go on for milliseconds after the run.
_BOUNDS_SPINNING = tuple(int(part) for part in RUNTIME_VERSION.split(".")[:2]) >= (1, 26)

# What a server computes is nobody else's business; and on a read-only file system the attempt is logged as an error.
onnxruntime.disable_telemetry_events()


class OnnxGraph:
    """A graph in an onnxruntime session on the CPU."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.inputs = [each.name for each in session.get_inputs()]
        self.outputs = [each.name for each in session.get_outputs()]

    @classmethod
    def load(cls, name: str, graph: bytes, threads: int, *, alone: bool = False) -> OnnxGraph:
        """Build a session.

        Args:
            name: For error messages.
            graph: The bytes of the ONNX file.
            threads: Threads that one run uses.
            alone: Whether nothing else runs beside its runs, so that their threads may take what they can get.

        Raises:
            BundleError: onnxruntime refuses the graph.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Idle threads that spin take the processor from the other workers and from gRPC.
        spin = alone and _BOUNDS_SPINNING
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        if spin:
            options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
        # A pattern of memory is kept for each shape that ever ran, and every mix of texts is a new one: without them
        # the arena stays as large as the largest run has made it, and runs are as fast.
        options.enable_mem_pattern = False
        options.log_severity_level = _FATAL_ONLY
        try:
            return cls(onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"]))
        except Exception as error:
            # onnxruntime has a class for each of its status codes, and only RuntimeError's ancestors in common.
            raise BundleError(f"onnxruntime cannot load {name}: {error}") from error

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, Array], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        """Compute the named outputs; see `Graph`."""
        options = None
        if cancellation is not None:
            options = onnxruntime.RunOptions()
            cancellation.arm(partial(setattr, options, "terminate", True))
        return cast("list[FloatArray]", self._session.run(outputs, feeds, options))
