"""How a loaded model that answers at once will run: by its calibration, as far as the settings leave that open."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from headwaiter_server.config import AUTO, ServerSettings
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.calibration import Calibrator
from headwaiter_server.lifecycle.learning import Beside, Learner
from headwaiter_server.lifecycle.memory import MemoryPlan, MemoryShare
from headwaiter_server.lifecycle.plan import CalibrationPlan, describe
from headwaiter_server.lifecycle.subject import AnyModel, Subject, TensorSubject
from headwaiter_server.log import get_logger
from headwaiter_server.metrics import Metrics
from headwaiter_server.model.contract import Graph

_log = get_logger(__name__)

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
            learner = Learner(self.settings, self.runtime_version, self.calibrator, self.lone_threads)
            found = learner.about_runs(subject, beside)
            plan = self._overridden(found.plan, subject)
            lone_model = None
            if plan.lone_tokens is not None or found.asks_for_lone_runs:
                lone_model = self._open_lone(subject, plan, found.taken_bytes)
            found = learner.about_lone_runs(subject, found, lone_model)
        except BundleError:
            raise
        except Exception as error:
            raise BundleError(f"the model {subject.name!r} does not run", error) from error
        measured = plan = self._overridden(found.plan, subject)
        if plan.lone_tokens is None:
            lone_model = None
        if lone_model is None:
            plan = replace(plan, lone_tokens=None)
        if beside is not None:
            self.calibrator.warm(subject.model, plan, subject.make_text, subject.asked)
        run_bytes = self._run_bytes(subject, plan, alone=lone_model is not None)
        share = self.memory.add(subject.name, run_bytes, found.taken_bytes)
        return EncoderPlan(plan, measured, lone_model, share)

    @property
    def lone_threads(self) -> int:
        """Threads of a run that has the server to itself."""
        chosen = self.settings.lone_run_threads
        return self.cpus if chosen == AUTO else chosen

    def _run_bytes(self, subject: Subject, plan: CalibrationPlan, *, alone: bool) -> int:
        """What a model's largest runs take; with those that have the server to themselves, whose session keeps its own.

        Args:
            subject: The model.
            plan: How it runs.
            alone: Whether there are such runs.
        """
        asked = subject.asked

        def of(plan: CalibrationPlan) -> int:
            attending = not (asked.rows and asked.joined)
            return plan.run_bytes(subject.longest_tokens, subject.most_tokens, attending=attending)

        size_bytes = of(plan)
        if alone:
            size_bytes += of(replace(plan, budget_tokens=1)) // self.calibrator.workers
        return size_bytes

    def _open_lone(self, subject: Subject, plan: CalibrationPlan, taken_bytes: int) -> AnyModel | None:
        """The model for runs that have the server to themselves; None where its second copy of the weights has no room.

        To be without costs a lone text some milliseconds, to be killed for lack of memory costs everybody.

        Args:
            subject: The model.
            plan: How it runs.
            taken_bytes: What its runs have taken of memory already.
        """
        files = subject.files if isinstance(subject, TensorSubject) else {}
        weights_bytes = len(subject.graph) + sum(map(len, files.values()))
        expected_bytes = max(0, self._run_bytes(subject, plan, alone=True) - taken_bytes)
        # While it is opened, onnxruntime has the file beside the weights that it makes of it; runs come later.
        needed_bytes = weights_bytes + max(weights_bytes, expected_bytes)
        if not self.memory.has_room(needed_bytes):
            limit_bytes = self.memory.limit_bytes
            _log.warning("lone_runs_left_out", model=subject.name, needed_bytes=needed_bytes, limit_bytes=limit_bytes)
            return None
        name = f"{subject.name} with {self.lone_threads} threads"
        given = {"files": files} if files else {}
        return subject.build(self.open_graph(name, subject.graph, self.lone_threads, **given))

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
