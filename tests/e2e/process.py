"""Starts the real command, waits for its line, and always ends it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from typing import IO

from headwaiter_server.metrics.rendering import AGE_HEADER

COMMAND = [sys.executable, "-m", "headwaiter_server"]
FREE_PORT = ["--listen", "127.0.0.1:0"]
FREE_PORTS = [*FREE_PORT, "--metrics-listen", "127.0.0.1:0"]
_READY = re.compile(r"^ready grpc=(?P<grpc>\S+) metrics=(?P<metrics>\S+) models=(?P<models>\S*)$")
_STOP_SECONDS = 40


@dataclass
class ServerProcess:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    grpc: str
    metrics: str
    models: str

    def scrape(self) -> dict[str, float]:
        """The metrics, by their name with labels as they stand in the text."""
        text = self.scrape_text()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def scrape_text(self, accept: str = "text/plain") -> str:
        """The metrics as they are now: an answer that was rendered before this was called is not taken."""
        called = time.monotonic()
        while True:
            began = time.monotonic()
            connection = HTTPConnection(self.metrics, timeout=60)
            with closing(connection):
                connection.request("GET", "/metrics", headers={"Accept": accept})
                response = connection.getresponse()
                assert response.status == HTTPStatus.OK
                text, age_seconds = response.read().decode(), float(response.headers[AGE_HEADER])
            if age_seconds <= began - called:
                return text
            time.sleep(0.01)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_SECONDS)


def environment() -> dict[str, str]:
    """This process's environment without settings of a server, which keeps nothing in the home of whoever tests."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("HEADWAITER_")}
    return others | {"XDG_CACHE_HOME": os.path.join(tempfile.gettempdir(), "headwaiter-tests")}  # noqa: PTH118 - text


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the server's command where it is expected to end by itself."""
    return subprocess.run(
        [*COMMAND, *arguments], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


@contextmanager
def running_server(
    *arguments: str,
    metrics: str = "127.0.0.1:0",
    log: IO[str] | None = None,
    command: Sequence[str] = COMMAND,
) -> Iterator[ServerProcess]:
    """A server on a free port, and another free one or `metrics`; killed in the end if the test has not ended it.

    Args:
        arguments: Of the command.
        metrics: Where its metrics are.
        log: Where its log goes, if not to the test's own stderr.
        command: What is started, if not the server's own command; it takes its arguments, and says its line.
    """
    with subprocess.Popen(
        [*command, *FREE_PORT, "--metrics-listen", metrics, *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            match = _READY.match(process.stdout.readline())
            assert match is not None, "the server ended before it was ready"
            yield ServerProcess(process, match["grpc"], match["metrics"], match["models"])
        finally:
            process.kill()
