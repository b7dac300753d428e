"""Graphs opened; beside models that serve, after a process of their own has made them ready.

What takes long about a session, a runtime does in one piece, and whoever is served meanwhile waits for a processor. In
another process it is done at the lowest priority, which in this one would hold up those who wait for the same locks.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headwaiter_server.log import get_logger
from headwaiter_server.model.onnx import OnnxGraph, names_files

_log = get_logger(__name__)

_COMMAND = (sys.executable, "-P", "-m", "headwaiter_server.lifecycle.preparing_child")


@dataclass
class Graphs:
    """Opens graphs. Used by one thread at a time, as models are built one after the other.

    Attributes:
        threads: Of a run, where nothing else is asked for.
        limit_seconds: What making one ready may take.
    """

    threads: int
    limit_seconds: float
    _beside_others: bool = field(default=False, init=False)
    # What was made ready last, and where it lies: a model's sessions for lone runs are built of the same bytes.
    _graph: bytes = field(default=b"", init=False, repr=False)
    _folder: tempfile.TemporaryDirectory[str] | None = field(default=None, init=False)

    @contextlib.contextmanager
    def beside_others(self) -> Iterator[None]:
        """Open graphs beside models that serve, until the end."""
        self._beside_others = True
        try:
            yield
        finally:
            self._beside_others = False
            self._forget()

    def open(
        self, name: str, graph: bytes, *, files: Mapping[str, bytes] | None = None, threads: int | None = None
    ) -> OnnxGraph:
        """Open a graph for runs beside others; see `OnnxGraph.load`."""
        return self._open(name, graph, threads or self.threads, files, alone=False)

    def open_alone(
        self, name: str, graph: bytes, threads: int, *, files: Mapping[str, bytes] | None = None
    ) -> OnnxGraph:
        """Open a graph for runs that have the server to themselves; see `OnnxGraph.load`."""
        return self._open(name, graph, threads, files, alone=True)

    def _open(
        self, name: str, graph: bytes, threads: int, files: Mapping[str, bytes] | None, *, alone: bool
    ) -> OnnxGraph:
        prepared = None
        if self._beside_others and not files and hasattr(os, "memfd_create") and not names_files(graph):
            prepared = self._prepared(graph)
        return OnnxGraph.load(name, graph, threads, alone=alone, files=files, prepared=prepared)

    def _prepared(self, graph: bytes) -> Path | None:
        """Where a graph lies that was made ready; None if that cannot be had, as it takes longer then, and no more."""
        if self._folder is not None and self._graph is graph:
            return Path(self._folder.name)
        self._forget()
        folder = None
        try:
            folder = tempfile.TemporaryDirectory(prefix="headwaiter-")
            _run_child(graph, folder.name, self.limit_seconds)
        except (OSError, subprocess.SubprocessError) as error:
            _log.warning("graph_not_prepared", reason=str(error))
            if folder is not None:
                folder.cleanup()
            return None
        self._graph, self._folder = graph, folder
        return Path(folder.name)

    def _forget(self) -> None:
        self._graph = b""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _run_child(graph: bytes, folder: str, limit_seconds: float) -> None:
    """Have a process make a graph ready.

    Raises:
        OSError: There is no room for the graph, or no process.
        subprocess.SubprocessError: It has failed, or taken too long.
    """
    with os.fdopen(os.memfd_create("graph"), "wb", buffering=0) as file:
        left = memoryview(graph)
        while left:
            left = left[file.write(left) :]
        number = str(file.fileno())
        subprocess.run(  # noqa: S603 - our own module
            [*_COMMAND, str(os.getpid()), number, folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[file.fileno()],
            start_new_session=True,
            timeout=limit_seconds,
            check=True,
        )
