"""What is done with a model in the process in which it is tried: everything that the server will do with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.building import build_model
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.lifecycle.warm_up import warm_up
from headwaiter_server.model.contract import Graph
from headwaiter_server.model.onnx import OnnxGraph

# What the steps are told by.
DOING = "doing"
TRIED = "tried"
REFUSED = "refused"
SAID = "said"
NO_MEMORY = "no_memory"

# How onnxruntime and the tokenizers say it, which know no class of their own for that.
_NO_MEMORY_WORDS = ("bad_alloc", "Failed to allocate memory", "Cannot allocate memory", "memory allocation of")

Step = Callable[[Mapping[str, str]], None]


def try_model(request: Mapping[str, Any], step: Step) -> None:
    """Build a model and run its smallest and largest texts.

    Args:
        request: Where it lies, and how it will serve; see `trial_child`.
        step: Told what is being done, and last what came of it.
    """
    location = BundleLocation(request["name"], request["version"], Path(request["folder"]))

    def open_graph(
        name: str, graph: bytes, *, files: Mapping[str, bytes] | None = None, threads: int | None = None
    ) -> Graph:
        step({DOING: "onnxruntime was building its graph"})
        opened = OnnxGraph.load(name, graph, threads or request["threads"], files=files)
        step({DOING: "it was answering its golden inputs"})
        return opened

    try:
        step({DOING: "its files were read"})
        built = build_model(location, request["variant"], open_graph)
        step({DOING: "it was answering its largest inputs"})
        warm_up(built)
        record = {TRIED: built.digest}
    except BaseException as error:  # noqa: BLE001 - also what libraries in other languages panic with
        if any(isinstance(each, MemoryError) or tells_of_memory(str(each)) for each in _causes(error)):
            step({NO_MEMORY: ""})
            return
        if not isinstance(error, BundleError):
            error = BundleError(f"{location.folder}: it cannot be loaded", f"{type(error).__name__}: {error}")
        record = {REFUSED: error.message, SAID: error.said}
    step(record)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def tells_of_memory(text: str) -> bool:
    """Whether a message, or what was printed before a crash, is about memory that could not be had."""
    return any(words in text for words in _NO_MEMORY_WORDS)
