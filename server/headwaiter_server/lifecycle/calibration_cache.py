"""Calibrations that were made before: a file for each combination of machine, versions, threads and graph.

What cannot be read is measured again, and what cannot be written is measured at the next start: nothing here keeps a
server from starting.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from headwaiter_server.lifecycle.kept_files import keep_file
from headwaiter_server.lifecycle.plan import CalibrationPlan
from headwaiter_server.log import get_logger

_log = get_logger(__name__)

# Changed whenever figures of older files would be misread, or should be measured again.
_FORMAT = 2
_NAME_DIGITS = 16
_PLAN = TypeAdapter(CalibrationPlan)


@dataclass(frozen=True, slots=True)
class CalibrationKey:
    """What a calibration depends on.

    Attributes:
        cpus: The processors in words.
        onnxruntime: Its version.
        headwaiter: Its version.
        workers: Runs at one time.
        threads: Of each run.
        lone_threads: Of a run that has the server to itself; as many as `threads` if it never gets more.
        graph_sha256: Of the graph's file.
    """

    cpus: str
    onnxruntime: str
    headwaiter: str
    workers: int
    threads: int
    lone_threads: int
    graph_sha256: str

    @property
    def without_lone_runs(self) -> CalibrationKey:
        """The same where a run that has the server to itself never gets more threads."""
        return replace(self, lone_threads=self.threads)

    @property
    def file_name(self) -> str:
        """Name of the file that holds it."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"calibration-{hashlib.sha256(text.encode()).hexdigest()[:_NAME_DIGITS]}.json"


def recall(folders: Sequence[Path], key: CalibrationKey) -> CalibrationPlan | None:
    """The plan that was kept under a key, in the first of the folders that has it; None if none has."""
    for path in (folder / key.file_name for folder in folders):
        try:
            return _parse(path.read_bytes(), key)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            reason = "it is not as it was written" if isinstance(error, ValidationError) else str(error)
            _log.warning("calibration_ignored", path=str(path), reason=reason)
    return None


def keep(folders: Sequence[Path], key: CalibrationKey, plan: CalibrationPlan) -> None:
    """Keep a plan in the first of the folders that can be written; whole or not at all."""
    text = json.dumps({"format": _FORMAT, "key": asdict(key), "plan": asdict(plan)}, indent=1)
    if reasons := keep_file(folders, key.file_name, text):
        _log.info("calibration_not_kept", reasons=reasons)


def _parse(text: bytes, key: CalibrationKey) -> CalibrationPlan:
    """A plan from its file.

    Raises:
        ValueError: It is none, or another's.
    """
    record = json.loads(text)
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise ValueError(f"its format is not {_FORMAT}")
    if record.get("key") != asdict(key):
        raise ValueError("it is for another machine, version or graph")
    plan = _PLAN.validate_json(json.dumps(record.get("plan")), strict=True)
    if not all(math.isfinite(number) and number >= 0 for number in _numbers(asdict(plan))) or plan.budget_tokens < 1:
        raise ValueError("it holds figures that no machine gives")
    return plan


def _numbers(value: Any) -> Iterator[float]:  # noqa: ANN401 - parsed JSON
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, (int, float)):
        yield value
