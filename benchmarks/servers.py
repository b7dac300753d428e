"""A server in a process of its own, with the processor time it takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil


class MeasuredServer:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], target: str) -> None:
        self.target = target
        self._process = psutil.Process(process.pid)

    def cpu_seconds(self) -> float:
        """Processor seconds since it started."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def resident_bytes(self) -> int:
        """Its resident size now."""
        return int(self._process.memory_info().rss)

    def forget_peak(self) -> None:
        """Have the largest resident size counted anew from now on."""
        self._proc("clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """The largest resident size since the last `forget_peak`, or since it started."""
        (line,) = (line for line in self._proc("status").read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def _proc(self, name: str) -> Path:
        return Path(f"/proc/{self._process.pid}") / name


@contextmanager
def measured_server(models: Path, *arguments: str) -> Iterator[MeasuredServer]:
    """Start a server on free ports and end it afterwards."""
    ports = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log-level", "error"]
    with measured_module(
        "headwaiter_server", "--models", models, "--lame-duck-seconds", 0, *ports, *arguments
    ) as server:
        yield server


@contextmanager
def measured_module(module: str, *arguments: object) -> Iterator[MeasuredServer]:
    """Start `python -m MODULE ...`, which says `ready grpc=TARGET` once it serves, and end it afterwards."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = re.match(r"ready grpc=(\S+)", process.stdout.readline())
            assert ready is not None
            yield MeasuredServer(process, ready[1])
        finally:
            process.terminate()


def run_json(module: str, *arguments: object) -> Any:  # noqa: ANN401 - what JSON holds
    """Run `python -m MODULE ...` and read the JSON it prints."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
