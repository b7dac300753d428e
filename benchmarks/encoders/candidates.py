"""The servers that take turns, each in a process of its own, and the choices that are theirs to make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.cpu import available_cpus

from benchmarks.encoders.figures import Candidate
from benchmarks.servers import MeasuredServer, measured_module, measured_server


@dataclass(frozen=True)
class Bundles:
    """The models that are served.

    Attributes:
        packed: Repository with the packed bundle of `model`.
        padded: Repository with the padded one.
        null: Repository with a bundle of the same name that computes nothing.
        model: Their name.
        calibrations: Where the servers remember what they measured of them: anew in each benchmark.
    """

    packed: Path
    padded: Path
    null: Path
    model: str
    calibrations: Path

    def folder(self, repository: Path) -> Path:
        """The bundle in one of the repositories."""
        return max((repository / self.model).glob("[0-9]*"), key=lambda folder: int(folder.name))

    def has_int8(self) -> bool:
        """Whether the packed bundle has the variant."""
        text = (self.folder(self.packed) / "manifest.json").read_text(encoding="utf-8")
        manifest = json_format.Parse(text, bundle_pb2.Manifest())
        return any(variant.name == "int8" for variant in manifest.variants)


@dataclass(frozen=True)
class PoolChoice:
    """What somebody who runs the afternoon's server would try.

    Attributes:
        threads: Of one run.
        workers: Of the pool.
    """

    threads: int
    workers: int

    def __str__(self) -> str:
        return f"{self.threads} threads a run, {self.workers} workers"


def pool_choices(*, quick: bool) -> list[PoolChoice]:
    """One or all threads a run, and pools up to four workers a processor."""
    processors = available_cpus()
    workers = [processors] if quick else [1, processors, 2 * processors, 4 * processors]
    threads = [1] if quick else sorted({1, processors})
    return [PoolChoice(each, pool) for each in threads for pool in workers]


@contextmanager
def afternoon_server(bundles: Bundles, choice: PoolChoice) -> Iterator[MeasuredServer]:
    """Start the afternoon's server on the padded bundle."""
    bundle = bundles.folder(bundles.padded)
    with measured_module(
        "benchmarks.encoders.afternoon_server", bundle / "model.onnx", bundle / "tokenizer.json",
        "--threads", choice.threads, "--workers", choice.workers,
    ) as server:  # fmt: skip
        yield server


@contextmanager
def our_servers(bundles: Bundles) -> Iterator[Mapping[Candidate, MeasuredServer]]:
    """Start our server with each bundle and way of batching, and the bare echo; by candidate."""
    ours: dict[Candidate, tuple[Path, *tuple[str, ...]]] = {
        Candidate.AUTO: (bundles.packed, "--batching", "auto"),
        Candidate.FIFO: (bundles.padded, "--batching", "fifo"),
        Candidate.NONE: (bundles.padded, "--batching", "none"),
        Candidate.NULL: (bundles.null,),
    }
    if bundles.has_int8():
        ours[Candidate.AUTO_INT8] = (bundles.packed, "--batching", "auto", "--variant", f"{bundles.model}=int8")
    cache = ["--calibration-cache", str(bundles.calibrations)]
    with ExitStack() as stack:
        servers = {name: stack.enter_context(measured_server(*arguments, *cache)) for name, arguments in ours.items()}
        servers[Candidate.ECHO] = stack.enter_context(measured_module("benchmarks.encoders.echo_server"))
        yield servers
