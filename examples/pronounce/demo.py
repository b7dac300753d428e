"""Serves the exported model, pronounces some words, and reads from the server's metrics how that went.

Run by `make demo`: `python examples/pronounce/demo.py --models models`
"""

from __future__ import annotations

import argparse
import itertools
import math
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.request import urlopen

from headwaiter import Client
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator

WORDS = (
    "transformer", "attention", "onomatopoeia", "colonel", "rhythm", "through", "chrysanthemum",
    # In no dictionary that the model was trained on.
    "headwaiter", "blorptastic", "snorkelwise", "quizzaciously", "frumiously", "zanderphone",
)  # fmt: skip
# Words that nobody has said yet, to be asked for one a call and many at once.
BURST = tuple(
    "".join(parts)
    for parts in itertools.product(
        ("un", "re", "over", "mis", "hyper", "counter"),
        ("flank", "gribble", "snorf", "plumb", "wander", "twist", "crandle", "bloom"),
        ("", "ing", "ed", "ness", "able", "ization", "ish", "wise"),
    )
)
CALLERS = 64
START_SECONDS = 120.0
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        process: The process.
        grpc: Where it answers calls, `HOST:PORT`.
        metrics: Where it shows its metrics, `HOST:PORT`.
    """

    process: subprocess.Popen[str]
    grpc: str
    metrics: str


class DemoError(Exception):
    """The demonstration went wrong, in words for its audience."""


def main() -> int:
    """Run the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of exported models")
    arguments = parser.parse_args()
    try:
        with serving(arguments.models) as server, Client(server.grpc) as client:
            print(f"Serving on {server.grpc}; metrics at http://{server.metrics}/metrics\n")
            pronounce(client)
            burst(client)
            report(read_histograms(server.metrics))
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print("\nThe server drained and stopped with exit code 0.")
    return 0


@contextmanager
def serving(models: Path) -> Iterator[Server]:
    """Run a server on free ports; stops it in every case.

    Raises:
        DemoError: It did not start, or did not stop cleanly.
    """
    command = [
        *(str(Path(sys.executable).with_name("headwaiter-server")), "--models", str(models)),
        *("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"),
    ]
    with tempfile.TemporaryFile(mode="w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)  # noqa: S603
        try:
            yield wait_until_ready(process, log)
            process.send_signal(signal.SIGTERM)
            code = process.wait(STOP_SECONDS)
            if code != 0:
                raise DemoError(f"the server stopped with exit code {code}:\n{tail(log)}")
        except subprocess.TimeoutExpired:
            raise DemoError(f"the server did not stop within {STOP_SECONDS:.0f} s:\n{tail(log)}") from None
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def wait_until_ready(process: subprocess.Popen[str], log: IO[str]) -> Server:
    """Wait for the one line that a server writes when every model is ready.

    Raises:
        DemoError: It ended first, or took too long.
    """
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    output = process.stdout
    if output is None:
        raise DemoError("the server's output is not connected")
    # A pipe cannot be read with a deadline, so a thread reads it.
    threading.Thread(target=lambda: lines.put(output.readline()), daemon=True).start()
    try:
        line = lines.get(timeout=START_SECONDS)
    except queue.Empty:
        raise DemoError(f"the server was not ready within {START_SECONDS:.0f} s:\n{tail(log)}") from None
    word, _, rest = line.strip().partition(" ")
    if word != "ready":
        raise DemoError(f"the server did not start:\n{tail(log)}")
    addresses = dict(part.split("=", 1) for part in rest.split(" "))
    return Server(process, addresses["grpc"], addresses["metrics"])


def tail(log: IO[str], lines: int = 20) -> str:
    """Give the last lines of the server's log."""
    log.seek(0)
    return "\n".join(log.read().splitlines()[-lines:])


def pronounce(client: Client) -> None:
    """Pronounce the words in one call and print them."""
    reply = client.generate(WORDS, timeout_seconds=30)
    for word, generation in zip(WORDS, reply.generations, strict=True):
        print(f"  {word:16} {generation.text}")


def burst(client: Client) -> None:
    """Ask for many words at once, one a call, as many users would."""
    started = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as callers:
        list(callers.map(lambda word: client.generate([word], timeout_seconds=60), BURST))
    seconds = time.perf_counter() - started
    rate = len(BURST) / seconds
    print(f"\n{len(BURST)} calls of one word, {CALLERS} at a time: {seconds:.2f} s, {rate:.0f} words/s")


@dataclass(frozen=True)
class Histogram:
    """A Prometheus histogram, all its series added up.

    Attributes:
        buckets: `(upper bound, observations up to it)`, ascending; the last bound is infinite.
        total: Sum of the observations.
    """

    buckets: tuple[tuple[float, float], ...]
    total: float

    @property
    def count(self) -> float:
        """Number of observations."""
        return self.buckets[-1][1]

    @property
    def mean(self) -> float:
        """Their mean."""
        return self.total / self.count if self.count else math.nan

    def quantile(self, part: float) -> float:
        """Estimate a quantile, linear inside a bucket as Prometheus does it."""
        rank = part * self.count
        lower_bound = lower_count = 0.0
        for bound, count in self.buckets:
            if count >= rank and count > lower_count:
                if math.isinf(bound):
                    return lower_bound
                return lower_bound + (bound - lower_bound) * (rank - lower_count) / (count - lower_count)
            lower_bound, lower_count = bound, count
        return math.nan


def read_histograms(address: str) -> dict[str, Histogram]:
    """Read the histograms of a server, those of calls for its `Generate` method only."""
    with urlopen(f"http://{address}/metrics", timeout=10) as response:
        text = response.read().decode()
    histograms = {}
    for family in text_string_to_metric_families(text):
        if family.type != "histogram":
            continue
        buckets: dict[float, float] = {}
        total = 0.0
        for sample in family.samples:
            if not sample.labels.get("method", "Generate").endswith("Generate"):
                continue
            if sample.name.endswith("_bucket"):
                bound = float(sample.labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + sample.value
            elif sample.name.endswith("_sum"):
                total += sample.value
        if buckets:
            histograms[family.name] = Histogram(tuple(sorted(buckets.items())), total)
    return histograms


def report(histograms: dict[str, Histogram]) -> None:
    """Print where the time went and how full the runs were."""
    rows = (
        ("request, ms", "headwaiter_request_duration_seconds", 1000),
        ("  queue, ms", "headwaiter_queue_duration_seconds", 1000),
        ("  inference, ms", "headwaiter_inference_duration_seconds", 1000),
        ("batch, texts", "headwaiter_batch_size", 1),
        ("batch, tokens", "headwaiter_batch_tokens", 1),
    )
    print(f"\n{'From /metrics':18}{'count':>8}{'mean':>10}{'p50':>10}{'p99':>10}")
    for label, name, factor in rows:
        if name not in histograms:
            raise DemoError(f"the server's metrics lack {name}")
        histogram = histograms[name]
        figures = (histogram.mean, histogram.quantile(0.5), histogram.quantile(0.99))
        print(f"{label:18}{histogram.count:8.0f}" + "".join(f"{figure * factor:10.2f}" for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
