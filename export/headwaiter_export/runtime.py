"""onnxruntime, with one graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as _NotImplemented

from headwaiter_export.errors import GraphRejectedError, NameClashError

Arrays = Mapping[str, NDArray[Any]]


class Graph:
    """One written graph, loaded from its bytes.

    Attributes:
        file_name: Of the graph.
        session: It, on one thread.
        outputs: Names of its outputs.
    """

    def __init__(self, path: Path) -> None:
        """Load the file.

        Raises:
            NameClashError: onnxruntime found two values of one name.
            GraphRejectedError: onnxruntime does not load it.
        """
        self.file_name = path.name
        try:
            self.session = _session(path.read_bytes())
        except Exception as error:
            message = first_line(error)
            if "Duplicate definition" in message:
                raise NameClashError(f"{path.name}: {message}") from error
            raise GraphRejectedError(f"{path.name}: onnxruntime does not load it: {message}") from error
        self.outputs = [value.name for value in self.session.get_outputs()]

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Run it once.

        Raises:
            GraphRejectedError: onnxruntime fails, for instance on a shape that was fixed inside the graph.
        """
        try:
            values = self.session.run(None, dict(feeds))
        except Exception as error:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
            raise GraphRejectedError(
                f"{self.file_name}: onnxruntime does not run it on {shapes}: {first_line(error)}"
            ) from error
        return dict(zip(self.outputs, values, strict=True))


def first_line(error: Exception) -> str:
    """The first line of what an error says, or else its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    # As the server does: on x86 processors that lack VNNI, sums of large int8 products would be wrong without it, and
    # graphs with int8 activations, which are exact anyway, do not load with it.
    try:
        return _built(graph, exact_products=True)
    except _NotImplemented:
        return _built(graph, exact_products=False)


def _built(graph: bytes, *, exact_products: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # What goes wrong is raised as well, and warnings are about fusions that did not apply.
    options.log_severity_level = 4
    # Small work: threads that wait for one another, spinning, cost more than they bring on a busy machine.
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", str(int(exact_products)))
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
