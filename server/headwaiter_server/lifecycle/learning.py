"""What there is to know of a model's runs: measured, or remembered from an earlier start."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from headwaiter_server.config import AUTO, ServerSettings, user_cache_folder
from headwaiter_server.cpu import describe_cpus
from headwaiter_server.lifecycle.calibration import Calibrator
from headwaiter_server.lifecycle.calibration_cache import CalibrationKey, keep, recall
from headwaiter_server.lifecycle.plan import CalibrationPlan, guess
from headwaiter_server.lifecycle.subject import AnyModel, Subject, TensorSubject
from headwaiter_server.log import get_logger

_log = get_logger(__name__)

_CACHE_FOLDER = ".calibration"
# Samples that are further off their fit come from a machine that was busy with something else: good enough to begin
# with, as runs correct the prices, but not to be remembered.
_MOST_SCATTER = 0.2
# What is measured beside models that serve is taken from them.
_GENTLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Beside:
    """What a model is planned beside that is loaded while others serve.

    To measure as at a start would disturb those, and be disturbed by them.

    Attributes:
        alike: The plan of a model that serves and should run alike, as its graph is as large; None if there is none.
    """

    alike: CalibrationPlan | None


@dataclass(frozen=True, slots=True)
class Learned:
    """What was found out about a model.

    Attributes:
        plan: How it runs.
        taken_bytes: Memory that its runs beside others have taken by now.
        key: What it is to be remembered by; None if it is, or should not be.
        seconds: What measuring took; None if it was before.
    """

    plan: CalibrationPlan
    taken_bytes: int = 0
    key: CalibrationKey | None = None
    seconds: float | None = None

    @property
    def asks_for_lone_runs(self) -> bool:
        """Whether it is still to be found what all threads bring to a run that is alone."""
        return self.key is not None and self.key.lone_threads > self.key.threads


@dataclass(frozen=True, slots=True)
class Learner:
    """Measures models, and remembers what it has measured.

    Attributes:
        settings: The settings.
        runtime_version: Of onnxruntime.
        calibrator: Measures.
        lone_threads: Threads of a run that has the server to itself.
    """

    settings: ServerSettings
    runtime_version: str
    calibrator: Calibrator
    lone_threads: int

    def about_runs(self, subject: Subject, beside: Beside | None) -> Learned:
        """What was measured, now or before, of a model's runs beside others.

        Args:
            subject: The model.
            beside: What serves meanwhile; None if nothing does.
        """
        settings = self.settings
        if settings.calibration == "off" or (isinstance(subject, TensorSubject) and not subject.runs):
            return Learned(_guess(subject))
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
        if (known := self._recalled(subject, key)) is not None:
            return Learned(known)
        if beside is not None:
            return Learned(beside.alike or self._measured_gently(subject))
        # What was learned where lone runs had no room.
        if (known := self._recalled(subject, key.without_lone_runs)) is not None:
            return Learned(known, key=key)
        _log.info("model_calibrating", model=subject.name)  # takes some seconds, in which nothing else is said
        began = self.calibrator.clock()
        plan = self.calibrator.measure(subject.model, subject.longest_tokens, subject.make_text, subject.asked)
        taken_bytes = max((each.size_bytes for each in plan.memory_samples), default=0)
        return Learned(plan, taken_bytes, key, self.calibrator.clock() - began)

    def about_lone_runs(self, subject: Subject, found: Learned, lone_model: AnyModel | None) -> Learned:
        """What was found, with what is still to be learned of lone runs; remembered.

        Args:
            subject: The model.
            found: What `about_runs` found.
            lone_model: The model with all threads; None where it has no room, or is not asked for.
        """
        if (key := found.key) is None:
            return found
        if lone_model is None or not found.asks_for_lone_runs:
            # As where nobody asks for them: nothing is learned of lone runs.
            key = key.without_lone_runs
        else:
            began = self.calibrator.clock()
            plan = self.calibrator.measure_lone(
                found.plan, subject.model, lone_model, subject.longest_tokens, subject.make_text, subject.asked
            )
            # What these took is not counted as taken: they are foretold in full, as their session may go again.
            seconds = (found.seconds or 0.0) + self.calibrator.clock() - began
            found = replace(found, plan=plan, seconds=seconds)
        if found.seconds is None:
            return found
        plan = found.plan
        _log.info("model_measured", model=subject.name, seconds=round(found.seconds, 3))
        if plan.scatter <= _MOST_SCATTER:
            keep(self._cache_folders(subject.folder), key, plan)
        else:
            _log.warning("calibration_disturbed", model=subject.name, scatter=round(plan.scatter, 3))
        return found

    def _recalled(self, subject: Subject, key: CalibrationKey) -> CalibrationPlan | None:
        return recall(self._cache_folders(subject.folder), key) if self.settings.calibration == "on" else None

    def _measured_gently(self, subject: Subject) -> CalibrationPlan:
        """What its runs cost beside others that serve, by the processor time that they take on one thread.

        Good enough to begin with, as runs correct the prices; it is not remembered. Whether all threads are faster for
        a run that is alone cannot be told where none is.
        """
        gentle = replace(self.calibrator, workers=1, clock=time.thread_time, seconds=_GENTLE_SECONDS)
        plan = gentle.measure(subject.model, subject.longest_tokens, subject.make_text, subject.asked)
        workers = self.calibrator.workers
        memory = tuple(replace(each, size_bytes=each.size_bytes * workers) for each in plan.memory_samples)
        return replace(plan, memory_samples=memory)

    def _cache_folders(self, model_folder: Path) -> list[Path]:
        if self.settings.calibration_cache != AUTO:
            return [self.settings.calibration_cache]
        user = user_cache_folder()
        return [model_folder / _CACHE_FOLDER, *([] if user is None else [user])]


def _guess(subject: Subject) -> CalibrationPlan:
    plan = guess(subject.model, len(subject.graph))
    if not subject.asked.rows:
        return plan
    return replace(plan, budget_tokens=min(plan.budget_tokens, subject.longest_tokens) if subject.asked.joined else 1)
