"""How a loaded model that answers at once will run: by its calibration, as far as the settings leave that open."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from headwaiter_server.config import AUTO, ServerSettings, user_cache_folder
from headwaiter_server.cpu import describe_cpus
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.calibration import Calibrator
from headwaiter_server.lifecycle.calibration_cache import CalibrationKey, keep, recall
from headwaiter_server.lifecycle.memory import MemoryPlan, MemoryShare
from headwaiter_server.lifecycle.plan import CalibrationPlan, describe, guess
from headwaiter_server.lifecycle.subject import AnyModel, Subject, TensorSubject
from headwaiter_server.log import get_logger
from headwaiter_server.metrics import Metrics
from headwaiter_server.model.contract import Graph

_log = get_logger(__name__)

_CACHE_FOLDER = ".calibration"
# Samples that are further off their fit come from a machine that was busy with something else: good enough to begin
# with, as runs correct the prices, but not to be remembered.
_MOST_SCATTER = 0.2
# What is measured beside models that serve is taken from them.
_GENTLE_SECONDS = 1.0

# Name for messages, bytes, threads; and by their names the files with weights that the graph names, if any.
OpenGraph = Callable[..., Graph]


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """How a model that answers at once will run.

    Attributes:
        calibration: By what figures.
        measured: The same, also where lone runs were left out for lack of room, for models that run alike.
        lone_model: The model for runs that have the server to themselves, if they use more threads.
        share: What it was counted in with.
    """

    calibration: CalibrationPlan
    measured: CalibrationPlan
    lone_model: AnyModel | None
    share: MemoryShare


@dataclass(frozen=True, slots=True)
class Beside:
    """What a model is planned beside that is loaded while others serve.

    To measure as at a start would disturb those, and be disturbed by them.

    Attributes:
        alike: The plan of a model that serves and should run alike, as its graph is as large; None if there is none.
    """

    alike: CalibrationPlan | None


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

    def plan(self, subject: Subject, beside: Beside | None = None) -> EncoderPlan:
        """Plan how a model runs.

        Args:
            subject: The model.
            beside: What serves meanwhile; None if nothing does.

        Raises:
            BundleError: Its largest runs do not fit into memory, or it does not run at all.
        """
        try:
            plan, lone_model, taken_bytes = self._calibrated(subject, beside)
        except BundleError:
            raise
        except Exception as error:
            raise BundleError(f"the model {subject.name!r} does not run", error) from error
        measured = plan = self._overridden(plan, subject)
        run_bytes = plan.run_bytes(subject.longest_tokens)
        expected_bytes = max(0, run_bytes - taken_bytes)
        if plan.lone_tokens is None:
            lone_model = None
        elif lone_model is None:
            lone_model = self._open_lone(subject, self.lone_threads, expected_bytes)
        elif not self.memory.has_room(expected_bytes):
            self._leave_out(subject)
            lone_model = None
        if lone_model is None:
            plan = replace(plan, lone_tokens=None)
        if beside is not None:
            self.calibrator.warm(subject.model, plan, subject.make_text, subject.asked)
        share = self.memory.add(subject.name, run_bytes, taken_bytes)
        return EncoderPlan(plan, measured, lone_model, share)

    @property
    def lone_threads(self) -> int:
        """Threads of a run that has the server to itself."""
        chosen = self.settings.lone_run_threads
        return self.cpus if chosen == AUTO else chosen

    def _open_lone(self, subject: Subject, threads: int, expected_bytes: int = 0) -> AnyModel | None:
        """The model for runs that have the server to themselves; None where its second copy of the weights has no room.

        To be without costs a lone text some milliseconds, to be killed for lack of memory costs everybody.

        Args:
            subject: The model.
            threads: Of such a run.
            expected_bytes: What the model's largest runs will take beside it.
        """
        files = subject.files if isinstance(subject, TensorSubject) else {}
        # While it is opened, onnxruntime has the file beside the weights that it makes of it.
        size_bytes = 2 * len(subject.graph) + sum(map(len, files.values()))
        if not self.memory.has_room(size_bytes + expected_bytes):
            self._leave_out(subject)
            return None
        name = f"{subject.name} with {threads} threads"
        given = {"files": files} if files else {}
        return subject.build(self.open_graph(name, subject.graph, threads, **given))

    def _leave_out(self, subject: Subject) -> None:
        _log.warning("lone_runs_left_out", model=subject.name, limit_bytes=self.memory.limit_bytes)

    def _calibrated(self, subject: Subject, beside: Beside | None) -> tuple[CalibrationPlan, AnyModel | None, int]:
        """What was measured, now or before; the model for lone runs, if it was opened; and memory that runs took now.

        Not all that the process has grown by: a session for lone runs is no memory that runs may use.
        """
        settings = self.settings
        if settings.calibration == "off" or (isinstance(subject, TensorSubject) and not subject.runs):
            return _guess(subject), None, 0
        threads = settings.effective_threads_per_run
        if isinstance(subject, TensorSubject) and subject.setup.threads:
            threads = subject.setup.threads
        key = CalibrationKey(
            cpus=describe_cpus(),
            onnxruntime=self.runtime_version,
            headwaiter=version("headwaiter"),
            workers=self.calibrator.workers,
            threads=threads,
            lone_threads=max(threads, self.lone_threads),
            graph_sha256=subject.identity,
        )
        folders = self._cache_folders(subject.folder)
        if (known := self._recalled(folders, key)) is not None:
            return known, None, 0
        if beside is not None:
            return beside.alike or self._measured_gently(subject), None, 0
        lone_model = self._open_lone(subject, key.lone_threads) if key.lone_threads > threads else None
        if lone_model is None and key.lone_threads > threads:
            # As where nobody asks for them: nothing is learned of lone runs.
            key = replace(key, lone_threads=threads)
            if (known := self._recalled(folders, key)) is not None:
                return known, None, 0
        make_text, asked = subject.make_text, subject.asked
        _log.info("model_calibrating", model=subject.name)  # takes some seconds, in which nothing else is said
        began = self.calibrator.clock()
        plan = self.calibrator.measure(subject.model, lone_model, subject.longest_tokens, make_text, asked)
        _log.info("model_measured", model=subject.name, seconds=round(self.calibrator.clock() - began, 3))
        if plan.scatter <= _MOST_SCATTER:
            keep(folders, key, plan)
        else:
            _log.warning("calibration_disturbed", model=subject.name, scatter=round(plan.scatter, 3))
        return plan, lone_model, max((each.size_bytes for each in plan.memory_samples), default=0)

    def _recalled(self, folders: list[Path], key: CalibrationKey) -> CalibrationPlan | None:
        return recall(folders, key) if self.settings.calibration == "on" else None

    def _measured_gently(self, subject: Subject) -> CalibrationPlan:
        """What its runs cost beside others that serve, by the processor time that they take on one thread.

        Good enough to begin with, as runs correct the prices; it is not remembered. Whether all threads are faster for
        a run that is alone cannot be told where none is.
        """
        gentle = replace(self.calibrator, workers=1, clock=time.thread_time, seconds=_GENTLE_SECONDS)
        plan = gentle.measure(subject.model, None, subject.longest_tokens, subject.make_text, subject.asked)
        workers = self.calibrator.workers
        memory = tuple(replace(each, size_bytes=each.size_bytes * workers) for each in plan.memory_samples)
        return replace(plan, memory_samples=memory)

    def _overridden(self, plan: CalibrationPlan, subject: Subject) -> CalibrationPlan:
        """What the settings say wins over what was measured."""
        settings = self.settings
        if isinstance(subject, TensorSubject):
            if subject.setup.preferred_rows is not None and subject.signature.joined:
                budget = min(subject.setup.preferred_rows, subject.longest_tokens)
                plan = replace(plan, budget_tokens=budget)
        elif settings.max_batch_tokens != AUTO:
            plan = replace(plan, budget_tokens=settings.max_batch_tokens)
        if settings.lone_run_threads != AUTO:
            plan = replace(plan, lone_tokens=1 if settings.lone_run_threads > 1 else None)
        return plan

    def _cache_folders(self, model_folder: Path) -> list[Path]:
        if self.settings.calibration_cache != AUTO:
            return [self.settings.calibration_cache]
        user = user_cache_folder()
        return [model_folder / _CACHE_FOLDER, *([] if user is None else [user])]

    def show(self, name: str, plan: CalibrationPlan, unit: str = "tokens") -> None:
        """Tell how a model runs that serves from now on.

        Args:
            name: Its name.
            plan: Its plan.
            unit: What its cost is counted in: "tokens", or "rows".
        """
        cost, full_run_seconds = plan.cost, plan.prices.full_run_seconds
        one = unit.removesuffix("s")
        counted = {
            f"budget_{unit}": plan.budget_tokens,
            f"{one}_us": round(cost.linear * 1e6, 2),
            f"{one}_pair_ns": round(cost.quadratic * 1e9, 3),
            f"lone_{unit}": plan.lone_tokens,
        }
        _log.info(
            "model_calibrated" if plan.samples else "model_not_calibrated",
            model=name,
            full_run_ms=round(full_run_seconds * 1e3, 2),
            fixed_ms=round(cost.fixed * 1e3, 3),
            **counted,
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
            sys.stderr.write(describe(name, plan, unit) + "\n")


def _guess(subject: Subject) -> CalibrationPlan:
    plan = guess(subject.model, len(subject.graph))
    if not subject.asked.rows:
        return plan
    return replace(plan, budget_tokens=min(plan.budget_tokens, subject.longest_tokens) if subject.asked.joined else 1)
