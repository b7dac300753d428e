"""A server whose model comes anew and whose answers are remembered: what the dashboards show of that.

`monitored` leaves it out: there, texts that come again are to be computed again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
from headwaiter_proto.inference import grpc_service_pb2

from .callers import Callers
from .process import running_server
from .prometheus import Labels, Prometheus, running_prometheus
from .windows import Window

SWAPS = 3
FAILED_LOADS = 2
MISSES = 5
HITS = 15
_LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"


@dataclass(frozen=True)
class Reloading:
    """What was seen of it.

    Attributes:
        instance: The server, as Prometheus knows it.
        prometheus: Its Prometheus.
        window: Swaps and failed loads, then calls whose texts come again.
        slowest_seconds: What the slowest swap took for who asked for it.
    """

    instance: str
    prometheus: Prometheus
    window: Window
    slowest_seconds: float


@contextmanager
def told_reloading(bundle: Path, folder: Path) -> Iterator[Reloading]:
    """Start everything, and have the model loaded again and again.

    Args:
        bundle: A model to embed.
        folder: Where the test's files go.
    """
    versions = folder / "models" / "embed"
    _put(bundle, versions / "1")
    with (
        running_server(
            *("--models", str(folder / "models"), "--cache-bytes", "1000000", "--calibration", "off"),
            *("--workers", "1", "--lame-duck-seconds", "0"),
        ) as server,
        grpc.insecure_channel(server.grpc, options=[("grpc.enable_retries", 0)]) as channel,
    ):
        callers, number = Callers(channel), 1

        def swap() -> float:
            nonlocal number
            number += 1
            _put(bundle, versions / str(number))
            return _load(channel)

        # Once everything, so that every series is there.
        swap()
        for _ in range(2):
            callers.embed("soup").ended()
        with running_prometheus(folder, server.metrics) as prometheus:
            start, before = _seen(prometheus)
            slowest_seconds = max(swap() for _ in range(SWAPS))
            for text in range(MISSES + HITS):
                callers.embed(str(text % MISSES)).ended()
            (versions / str(number + 1)).mkdir()
            for _ in range(FAILED_LOADS):
                with suppress(grpc.RpcError):
                    _load(channel)
            end, after = _seen(prometheus)
            window = Window(prometheus, start, end, tuple(callers.seen), 0.0, before, after)
            yield Reloading(server.metrics, prometheus, window, slowest_seconds)


def _put(bundle: Path, version: Path) -> None:
    """Copy a bundle, and rename it into place."""
    aside = version.with_name(f".{version.name}")
    shutil.copytree(bundle, aside)
    aside.rename(version)


def _load(channel: grpc.Channel) -> float:
    """Have the model loaded as its folder is now; how long that took."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_LOAD)
    began = time.monotonic()
    call(grpc_service_pb2.RepositoryModelLoadRequest(model_name="embed").SerializeToString(), timeout=60)
    return time.monotonic() - began


def _seen(prometheus: Prometheus) -> tuple[float, dict[Labels, float]]:
    at = prometheus.settled()
    return at, prometheus.instant('{job="headwaiter"}', at)
