"""The real server, whose engine takes a fixed time for every run, nearly all of it asleep.

    python tests/reliability/sleeping_server.py --run-seconds 0.01 [flags of headwaiter-server]

What an engine costs then does not depend on what else the machine does, and a server can be driven far beyond its
capacity on a machine that is much smaller than its load. Runs of texts give the answers of the real model. Without
`--models` there is one small model, `sleeper`, of words `w1` to `w14`. With `--batching none --workers 1` it runs one
text at a time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO, Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # run as a file, from anywhere

from e2e.process import ServerProcess, running_server  # noqa: E402 - after the path is set
from headwaiter_server.__main__ import main as serve  # noqa: E402
from headwaiter_server.encoding import Encoding  # noqa: E402
from headwaiter_server.lifecycle.building import BuiltModel, build_model  # noqa: E402
from headwaiter_server.lifecycle.subject import Subject, TensorSubject  # noqa: E402
from headwaiter_server.model.contract import Cancellation, EncoderModel, FloatArray  # noqa: E402
from unit.server.test_load_encoder import Made  # noqa: E402

MODEL = "sleeper"
TEXT = "w1 w2 w3"
RUN_SECONDS = 0.01
# One text a run, and one run at a time.
ONE_BY_ONE = ("--batching", "none", "--workers", "1")


class SleepingModel:
    """An encoder whose runs take as long as they are told to; implements `EncoderModel`."""

    def __init__(self, model: EncoderModel, run_seconds: float) -> None:
        self.packed = model.packed
        self._model = model
        self._run_seconds = run_seconds

    def run(
        self, sources: Sequence[Encoding], raw: Sequence[bool], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        """Answer texts together, and sleep for the rest of the time; see `EncoderModel`."""
        until = time.monotonic() + self._run_seconds
        answers = self._model.run(sources, raw, cancellation)
        ended = threading.Event()
        if cancellation is not None:
            cancellation.arm(ended.set)
        if ended.wait(until - time.monotonic()):
            raise RuntimeError("the run was ended")
        return answers


@dataclass(frozen=True, slots=True)
class SleepingSubject(Subject):
    """A model that sleeps, whose calibration is nobody else's."""

    run_seconds: float = RUN_SECONDS

    @property
    def identity(self) -> str:
        """See `Subject`."""
        return f"{super(SleepingSubject, self).identity}-asleep-{self.run_seconds}"


def put_to_sleep(run_seconds: float) -> None:
    """Have every encoder that is built from now on in this process sleep in its runs."""

    def build(*arguments: Any, **named: Any) -> BuiltModel:  # noqa: ANN401 - as they come
        built = build_model(*arguments, **named)
        subject = built.body
        if not isinstance(subject, Subject) or isinstance(subject, TensorSubject):
            return built
        return replace(built, body=_asleep(subject, run_seconds))

    mock.patch("headwaiter_server.wiring.models.build_model", build).start()


def _asleep(subject: Subject, run_seconds: float) -> SleepingSubject:
    values = {field.name: getattr(subject, field.name) for field in fields(Subject)}
    awake: Callable[..., EncoderModel] = subject.build
    values["model"] = SleepingModel(subject.model, run_seconds)
    values["build"] = lambda graph: SleepingModel(awake(graph), run_seconds)
    return SleepingSubject(**values, run_seconds=run_seconds)


def write_sleeper(repository: Path) -> None:
    """Write the model `sleeper`, version 1."""
    Made(repository / MODEL).write()


@contextmanager
def running_sleeping_server(
    *flags: str, run_seconds: float = RUN_SECONDS, log: IO[str] | None = None, through: Sequence[str] = ()
) -> Iterator[ServerProcess]:
    """A sleeping server on free ports, in a process of its own; killed in the end if nobody has ended it.

    Args:
        flags: Of headwaiter-server.
        run_seconds: Of each run.
        log: Where its log goes, if not to the test's own stderr.
        through: A command that becomes the server.
    """
    command = [*through, sys.executable, __file__, "--run-seconds", str(run_seconds)]
    # Made here: a server that is killed leaves nothing behind.
    with tempfile.TemporaryDirectory(prefix="headwaiter-sleeper-") as folder:
        if "--models" not in flags:
            write_sleeper(Path(folder))
            flags = ("--models", folder, *flags)
        with running_server(*flags, log=log, command=command) as server:
            yield server


def main() -> None:
    """Serve until a signal comes."""
    # No short forms: they are the server's to refuse.
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--run-seconds", type=float, default=RUN_SECONDS, help="of each run")
    options, flags = parser.parse_known_args()
    put_to_sleep(options.run_seconds)
    if "--models" in flags:
        serve(flags)
        return
    with tempfile.TemporaryDirectory(prefix="headwaiter-sleeper-") as folder:
        write_sleeper(Path(folder))
        serve(["--models", folder, *flags])


if __name__ == "__main__":
    main()
