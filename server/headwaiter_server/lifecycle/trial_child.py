"""The process in which models are tried: `python -m headwaiter_server.lifecycle.trial_child`, started by `TrialHost`.

It imports once what a model is built with and forks for each trial, so that a trial costs a few milliseconds more than
the build. It has a single thread, keeps no state but its children, and reads requests from stdin, one JSON object a
line:

    {"id": 1, "name": ..., "version": ..., "folder": ..., "variant": ..., "threads": ..., "seconds": ...,
     "memory_bytes": ...}      try a model
    {"cancel": 1}              nobody wants to know any more

and answers each trial with one line on stdout: what the child wrote line by line before it ended ("steps"), what it
printed otherwise ("said"), its wait status ("status"), and whether it was killed for being late ("late"). The end of
stdin ends it, and its children before it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Threads would make forking unsound, and each of these libraries starts some when it is imported.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", ORT_DISABLE_TELEMETRY="1")

from headwaiter_server.lifecycle.confinement import MOST_WRITTEN_BYTES, confine, die_with_parent
from headwaiter_server.lifecycle.trying import try_model

_PIPE_BYTES = 1 << 16
_STDIN, _STDOUT, _STDERR = 0, 1, 2
# Of a child: the only other one that it has.
_ANSWERS = 3
_MOST_SAID = 300


@dataclass
class _Child:
    """One trial under way.

    Attributes:
        number: Of the request.
        pid: Of the process.
        answers: Where its steps are read from; at its end when it has ended.
        output: Where its stdout and stderr go.
        deadline: When it is killed, by the monotonic clock.
        late: Whether it was.
    """

    number: int
    pid: int
    answers: int
    output: int
    deadline: float
    steps: bytes = b""
    late: bool = False


class _Host:
    """Forks a child for each request, and reports how it ended."""

    def __init__(self) -> None:
        self._children: dict[int, _Child] = {}
        self._unread = b""

    def run(self) -> None:
        """Go on until stdin ends."""
        try:
            while True:
                soonest = min((each.deadline for each in self._children.values() if not each.late), default=None)
                timeout = None if soonest is None else max(0.0, soonest - time.monotonic())
                ready, _, _ = select.select([_STDIN, *self._children], [], [], timeout)
                for descriptor in ready:
                    if descriptor == _STDIN:
                        if not self._requests():
                            return
                    elif descriptor in self._children:
                        self._steps(self._children[descriptor])
                self._kill_late()
        finally:
            for child in self._children.values():
                _kill(child.pid)
                os.waitpid(child.pid, 0)

    def _requests(self) -> bool:
        """Take what has come; False at the end."""
        received = os.read(_STDIN, _PIPE_BYTES)
        *lines, self._unread = (self._unread + received).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "cancel" in request:
                self._cancel(request["cancel"])
            else:
                self._fork(request)
        return bool(received)

    def _fork(self, request: dict[str, Any]) -> None:
        answers, write_end = os.pipe()
        output = os.memfd_create("output")
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            _become_child(request, parent, write_end, output)
        os.close(write_end)  # and no later child inherits it: its end is the child's
        self._children[answers] = _Child(
            request["id"], pid, answers, output, deadline=time.monotonic() + request["seconds"]
        )

    def _steps(self, child: _Child) -> None:
        received = os.read(child.answers, _PIPE_BYTES)
        child.steps = (child.steps + received)[-_PIPE_BYTES:]
        if received:
            return
        del self._children[child.answers]
        os.close(child.answers)
        _kill(child.pid)  # which has ended, or has no business to go on
        _, status = os.waitpid(child.pid, 0)
        said = os.pread(child.output, MOST_WRITTEN_BYTES, 0)
        os.close(child.output)
        _answer(
            {
                "id": child.number,
                "steps": child.steps.decode(errors="replace").splitlines(),
                "said": _shown(said),
                "status": status,
                "late": child.late,
            }
        )

    def _cancel(self, number: int) -> None:
        for child in self._children.values():
            if child.number == number:
                _kill(child.pid)

    def _kill_late(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.deadline <= now and not child.late:
                child.late = True
                _kill(child.pid)


def _become_child(request: dict[str, Any], parent: int, answers: int, output: int) -> None:
    """Try the model and end; never returns, whatever happens."""
    try:
        die_with_parent(parent)
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), _STDIN)
        for standard in (_STDOUT, _STDERR):
            os.dup2(output, standard)
        own = os.dup2(answers, _ANSWERS)
        for entry in list(Path("/proc/self/fd").iterdir()):
            if int(entry.name) > own:
                with contextlib.suppress(OSError):  # what listed them is closed already
                    os.close(int(entry.name))
        confine(request["memory_bytes"], request["seconds"] * (request["threads"] + 1))

        def step(record: Mapping[str, str]) -> None:
            os.write(own, json.dumps(record).encode() + b"\n")

        try_model(request, step)
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as its parent
        code = 1
    os._exit(code)


def _shown(printed: bytes) -> str:
    """The beginning of what a child printed, on one line."""
    lines = [line.strip() for line in printed.decode(errors="replace").splitlines() if line.strip()]
    return "".join(each if each.isprintable() else "?" for each in " | ".join(lines))[:_MOST_SAID]


def _answer(record: dict[str, Any]) -> None:
    data = json.dumps(record).encode() + b"\n"
    while data:
        data = data[os.write(_STDOUT, data) :]


def _kill(pid: int) -> None:
    """End a child; it is waited for elsewhere, so that its id is its own until then."""
    os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Serve one parent."""
    die_with_parent(int(sys.argv[1]))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server ends this process when it ends itself
    # What is there now will stay: children then share it for longer.
    gc.collect()
    gc.freeze()
    _Host().run()


if __name__ == "__main__":
    main()
