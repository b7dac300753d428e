"""The servers that take turns, each in a process of its own, and the choices that are CTranslate2's to make."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from google.protobuf import json_format
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.cpu import available_cpus

from benchmarks.generation.figures import Candidate, Workload
from benchmarks.servers import MeasuredServer, measured_module, measured_server

# Of each running batch of ours, of which there is one for each processor.
ROWS = 32


@dataclass(frozen=True)
class Models:
    """What is served.

    Attributes:
        repositories: Bundles, by workload.
        checkpoints: What they were exported from.
        ctranslate: The decoder as CTranslate2 reads it.
    """

    repositories: Mapping[Workload, Path]
    checkpoints: Mapping[Workload, Path]
    ctranslate: Path

    def bundle(self, workload: Workload) -> Path:
        """The only bundle of a repository's model of this name, or of the only model."""
        repository = self.repositories[workload]
        name = workload if (repository / workload).exists() else "*"
        return max(repository.glob(f"{name}/[0-9]*"))

    def variants(self, workload: Workload) -> list[str]:
        """Of its weights."""
        text = (self.bundle(workload) / "manifest.json").read_text(encoding="utf-8")
        return [each.name for each in json_format.Parse(text, bundle_pb2.Manifest()).variants]


@dataclass(frozen=True)
class Setting:
    """What somebody who runs CTranslate2 would try.

    Attributes:
        rows: Most texts that are handed over together.
        max_batch_size: What the library makes batches of, texts of like length together; 0: all.
        threads: Of one batch; as many batches run side by side as processors are left.
        environment: Variables that choose how it multiplies.
    """

    rows: int
    max_batch_size: int = 0
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        sized = f" as batches of {self.max_batch_size} by length" if self.max_batch_size else ""
        variables = "".join(f", {name}={value}" for name, value in self.environment.items())
        return f"up to {self.rows} texts together{sized}, {self.threads} threads a batch{variables}"


_PACKED = {"CT2_USE_MKL": "1", "CT2_USE_EXPERIMENTAL_PACKED_GEMM": "1"}
SETTINGS = (Setting(16), Setting(32), Setting(32, environment=_PACKED))
QUICK_SETTINGS = (Setting(32),)


@contextmanager
def ctranslate_server(models: Models, setting: Setting, compute_type: str) -> Iterator[MeasuredServer]:
    """Start CTranslate2 behind our front."""
    tokenizer = models.checkpoints[Workload.DECODER] / "tokenizer.json"
    with (
        mock.patch.dict(os.environ, setting.environment),
        measured_module(
            "benchmarks.generation.ctranslate_server", models.ctranslate, tokenizer, "--compute-type", compute_type,
            "--rows", setting.rows, "--max-batch-size", setting.max_batch_size, "--threads", setting.threads,
            "--batches", max(1, available_cpus() // setting.threads),
        ) as server,
    ):  # fmt: skip
        yield server


@contextmanager
def servers(
    models: Models, setting: Setting, work: Path
) -> Iterator[Mapping[tuple[Candidate, Workload], MeasuredServer]]:
    """Start ours with each model and way of batching, and CTranslate2."""
    ours: dict[tuple[Candidate, Workload], tuple[str, ...]] = {}
    for workload in Workload:
        ours[Candidate.AUTO, workload] = ("--batching", "auto")
        ours[Candidate.FIFO, workload] = ("--batching", "fifo")
        if "int8" in models.variants(workload):
            name = models.bundle(workload).parent.name
            ours[Candidate.AUTO_INT8, workload] = ("--batching", "auto", "--variant", f"{name}=int8")
    shared = ["--max-batch-rows", str(ROWS), "--calibration-cache", str(work / "calibrations")]
    with ExitStack() as stack:
        started = {
            (candidate, workload): stack.enter_context(
                measured_server(models.repositories[workload], *arguments, *shared)
            )
            for (candidate, workload), arguments in ours.items()
        }
        for candidate, compute_type in ((Candidate.CTRANSLATE, "float32"), (Candidate.CTRANSLATE_INT8, "int8")):
            started[candidate, Workload.DECODER] = stack.enter_context(ctranslate_server(models, setting, compute_type))
        yield started
