"""A server in a process of its own, with the processor time it takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def measured_server(models: Path, *arguments: str) -> Iterator[MeasuredServer]:
    """Start a server on free ports and end it afterwards."""
    command = [sys.executable, "-m", "headwaiter_server", "--models", str(models), "--lame-duck-seconds", "0"]
    ports = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log-level", "error"]
    with subprocess.Popen([*command, *ports, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = re.match(r"ready grpc=(\S+)", process.stdout.readline())
            assert ready is not None
            yield MeasuredServer(process, ready[1])
        finally:
            process.terminate()


def run_json(module: str, *arguments: object) -> dict[str, float]:
    """Run `python -m MODULE ...` and read the JSON it prints."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    figures: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return figures
