"""How a loaded encoder will run: by its calibration, as far as the settings leave that open."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from headwaiter_server.config import AUTO, ServerSettings, user_cache_folder
from headwaiter_server.cpu import describe_cpus
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.calibration import Calibrator, MakeText
from headwaiter_server.lifecycle.calibration_cache import CalibrationKey, keep, recall
from headwaiter_server.lifecycle.memory import MemoryPlan
from headwaiter_server.lifecycle.plan import CalibrationPlan, describe, guess
from headwaiter_server.log import get_logger
from headwaiter_server.metrics import Metrics
from headwaiter_server.model.contract import EncoderModel, Graph

_log = get_logger(__name__)

_CACHE_FOLDER = ".calibration"
# Samples that are further off their fit come from a machine that was busy with something else: good enough to begin
# with, as runs correct the prices, but not to be remembered.
_MOST_SCATTER = 0.2

OpenGraph = Callable[[str, bytes, int], Graph]


@dataclass(frozen=True, slots=True)
class Subject:
    """A loaded encoder whose runs are to be planned.

    Attributes:
        name: Of the model.
        folder: The model's folder, which holds its versions.
        model: The model, with the threads of every run.
        graph: Bytes of its graph.
        build: Makes the model of its graph, opened.
        longest_tokens: Longest text that it takes.
        make_text: A text of so many tokens.
    """

    name: str
    folder: Path
    model: EncoderModel
    graph: bytes
    build: Callable[[Graph], EncoderModel]
    longest_tokens: int
    make_text: MakeText


@dataclass(frozen=True)
class Planner:
    """Plans how models run.

    Attributes:
        settings: The settings.
        metrics: Where plans are shown.
        memory: Where the models are counted in.
        open_graph: Opens a graph for runs that have the server to themselves, by its name and bytes, with so many
            threads.
        runtime_version: Of onnxruntime.
        calibrator: Measures models.
        cpus: Processors that there are.
    """

    settings: ServerSettings
    metrics: Metrics
    memory: MemoryPlan
    open_graph: OpenGraph
    runtime_version: str
    calibrator: Calibrator
    cpus: int

    def plan(self, subject: Subject) -> tuple[CalibrationPlan, EncoderModel | None]:
        """Plan how a model runs.

        Args:
            subject: The model.

        Returns:
            The plan, and the model for runs that have the server to themselves, if they use more threads.

        Raises:
            BundleError: Its largest runs do not fit into memory, or it does not run at all.
        """
        try:
            plan, lone_model, taken_bytes = self._calibrated(subject)
        except BundleError:
            raise
        except Exception as error:
            raise BundleError(f"the model {subject.name!r} does not run: {error}") from error
        plan = self._overridden(plan)
        if plan.lone_tokens is None:
            lone_model = None
        elif lone_model is None:
            lone_model = self._open(subject, self.lone_threads)
        self.memory.add(subject.name, plan.run_bytes(subject.longest_tokens), taken_bytes)
        self._show(subject.name, plan)
        return plan, lone_model

    @property
    def lone_threads(self) -> int:
        """Threads of a run that has the server to itself."""
        chosen = self.settings.lone_run_threads
        return self.cpus if chosen == AUTO else chosen

    def _open(self, subject: Subject, threads: int) -> EncoderModel:
        return subject.build(self.open_graph(f"{subject.name} with {threads} threads", subject.graph, threads))

    def _calibrated(self, subject: Subject) -> tuple[CalibrationPlan, EncoderModel | None, int]:
        """What was measured, now or before; the model for lone runs, if it was opened; and memory that runs took now.

        Not all that the process has grown by: a session for lone runs is no memory that runs may use.
        """
        settings = self.settings
        if settings.calibration == "off":
            return guess(subject.model, len(subject.graph)), None, 0
        threads = settings.effective_threads_per_run
        key = CalibrationKey(
            cpus=describe_cpus(),
            onnxruntime=self.runtime_version,
            headwaiter=version("headwaiter"),
            workers=self.calibrator.workers,
            threads=threads,
            lone_threads=max(threads, self.lone_threads),
            graph_sha256=sha256(subject.graph).hexdigest(),
        )
        folders = self._cache_folders(subject.folder)
        if settings.calibration == "on" and (known := recall(folders, key)) is not None:
            return known, None, 0
        lone_model = self._open(subject, key.lone_threads) if key.lone_threads > threads else None
        plan = self.calibrator.measure(subject.model, lone_model, subject.longest_tokens, subject.make_text)
        if plan.scatter <= _MOST_SCATTER:
            keep(folders, key, plan)
        else:
            _log.warning("calibration_disturbed", model=subject.name, scatter=round(plan.scatter, 3))
        return plan, lone_model, max((each.size_bytes for each in plan.memory_samples), default=0)

    def _overridden(self, plan: CalibrationPlan) -> CalibrationPlan:
        """What the settings say wins over what was measured."""
        settings = self.settings
        if settings.max_batch_tokens != AUTO:
            plan = replace(plan, budget_tokens=settings.max_batch_tokens)
        if settings.lone_run_threads != AUTO:
            plan = replace(plan, lone_tokens=1 if settings.lone_run_threads > 1 else None)
        return plan

    def _cache_folders(self, model_folder: Path) -> list[Path]:
        if self.settings.calibration_cache != AUTO:
            return [self.settings.calibration_cache]
        user = user_cache_folder()
        return [model_folder / _CACHE_FOLDER, *([] if user is None else [user])]

    def _show(self, name: str, plan: CalibrationPlan) -> None:
        cost, full_run_seconds = plan.cost, plan.prices.full_run_seconds
        _log.info(
            "model_calibrated" if plan.samples else "model_not_calibrated",
            model=name,
            budget_tokens=plan.budget_tokens,
            full_run_ms=round(full_run_seconds * 1e3, 2),
            fixed_ms=round(cost.fixed * 1e3, 3),
            token_us=round(cost.linear * 1e6, 2),
            token_pair_ns=round(cost.quadratic * 1e9, 3),
            lone_tokens=plan.lone_tokens,
        )
        self.metrics.calibrated(
            name,
            budget_tokens=plan.budget_tokens,
            full_run_seconds=full_run_seconds,
            fixed_seconds=cost.fixed,
            linear_seconds=cost.linear,
            quadratic_seconds=cost.quadratic,
            lone_tokens=plan.lone_tokens or 0,
        )
        # For a person who watches the start; machines have the line above.
        if self.settings.log_format == "text" or (self.settings.log_format == "auto" and sys.stderr.isatty()):
            sys.stderr.write(describe(name, plan) + "\n")
