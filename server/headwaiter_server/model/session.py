"""Sessions of onnxruntime, opened."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping
from functools import partial

import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as _NotImplemented

from headwaiter_server.errors import BundleError
from headwaiter_server.pacing import paced

RUNTIME_VERSION: str = onnxruntime.__version__

_FATAL_ONLY = 4
# How long a thread that shares a run looks for its part of the next layer before it goes to sleep, in microseconds: a
# wake-up costs as much as a layer of a short text. Measured with MiniLM on 2 cores: 100 takes a fifth less time for 8
# to 64 tokens than none; more than 300 brings nothing.
_SPIN_US = 300
# Runtimes before this one know no bound, and would go on for milliseconds after the run.
_BOUNDS_SPINNING = tuple(int(part) for part in RUNTIME_VERSION.split(".")[:2]) >= (1, 26)

# x86 processors without VNNI add products of uint8 activations with int8 weights in pairs in 16 bits, which large ones
# exceed: the sums come out too small. This has the runtime multiply there in a way that is exact, wherever it knows the
# weights in advance, and changes nothing anywhere else.
_EXACT_PRODUCTS = "session.x64quantprecision"

# Where a graph made of bytes is to look for the files it names, so that it finds none but those it is given.
_NO_FOLDER = os.devnull

# Every graph that names files with weights has this word in it.
_FILE_WORD = b"location"

# Under which a graph is given to onnxruntime; means nothing to anybody else.
_MEMORY_FILE = re.compile(r"/proc/self/fd/\d+")

# Runtimes that do not know the variable that says so are told.
onnxruntime.disable_telemetry_events()


def open_session(
    name: str, graph: bytes, threads: int, *, alone: bool = False, files: Mapping[str, bytes] | None = None
) -> onnxruntime.InferenceSession:
    """Build a session on the CPU.

    Args:
        name: For error messages.
        graph: The bytes of the ONNX file.
        threads: Threads that one run uses.
        alone: Whether nothing else runs beside its runs, so that their threads may take what they can get.
        files: Files with weights that the graph names. Others it does not get, wherever they lie.

    Raises:
        BundleError: onnxruntime refuses the graph.
    """

    def build(*, exact: bool) -> onnxruntime.InferenceSession:
        options = _options(threads, alone=alone, exact=exact)
        if files:
            _give(options, files)
        return paced(partial(_session if files else _session_beside_others, graph, options))

    try:
        try:
            return build(exact=True)
        except _NotImplemented:
            # On such processors it knows no product of int8 activations with int8 weights: that is exact anyway.
            return build(exact=False)
    except BundleError:
        raise
    except Exception as error:
        # onnxruntime has a class for each of its status codes, and only RuntimeError's ancestors in common.
        raise BundleError(f"onnxruntime cannot load {name}", _MEMORY_FILE.sub("it", str(error))) from error


def _options(threads: int, *, alone: bool, exact: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin take the processor from the other workers and from gRPC.
    spin = alone and _BOUNDS_SPINNING
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    if spin:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
    options.add_session_config_entry(_EXACT_PRODUCTS, str(int(exact)))
    # A pattern of memory is kept for each shape that ever ran, and every mix of texts is a new one: without them
    # the arena stays as large as the largest run has made it, and runs are as fast.
    options.enable_mem_pattern = False
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NO_FOLDER)
    return options


def _session(graph: bytes | str, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _session_beside_others(graph: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session that is built without holding up others, where that can be had.

    From bytes the runtime reads a graph with the interpreter lock held, for a hundred milliseconds where it has 90 MB,
    and the session keeps the bytes for good. From a file it does neither: so the bytes become a file in memory that
    nobody else can reach. A graph that may name further files is left as it is, because beside such a file it would
    find all that this process has open.
    """
    if not hasattr(os, "memfd_create") or _names_files(graph):
        return _session(graph, options)
    with os.fdopen(os.memfd_create("graph"), "wb", buffering=0) as file:
        path = f"/proc/self/fd/{file.fileno()}"
        try:
            written, left = 0, memoryview(graph)
            while written < len(graph):
                written += file.write(left[written:])
        except OSError:  # there is a limit on the size of files
            return _session(graph, options)
        return _session(path if os.path.exists(path) else graph, options)  # noqa: PTH110 - it is no real path


def _names_files(graph: bytes) -> bool:
    # The C library's search, as Python's own holds the interpreter lock.
    search = getattr(ctypes.CDLL(None), "memmem", None)
    if search is None:
        return _FILE_WORD in graph
    search.restype = ctypes.c_void_p
    sizes = ctypes.c_size_t(len(graph)), ctypes.c_size_t(len(_FILE_WORD))
    return search(ctypes.c_char_p(graph), sizes[0], ctypes.c_char_p(_FILE_WORD), sizes[1]) is not None


def _give(options: onnxruntime.SessionOptions, files: Mapping[str, bytes]) -> None:
    """Hand a graph its files from memory, so that it has the bytes that were checked.

    Raises:
        BundleError: This runtime is too old for it.
    """
    if not hasattr(options, "add_external_initializers_from_files_in_memory"):
        raise BundleError(f"onnxruntime {RUNTIME_VERSION} does not take weights in files of their own from memory")
    options.add_external_initializers_from_files_in_memory(
        list(files), list(files.values()), [len(content) for content in files.values()]
    )
