"""What checks are: functions that call the server as its users' programs do, and say what they saw.

Everything in this folder runs in an environment that holds Triton's client library and nothing of this project:

    python -m compatibility.triton MODULE GRPC_ADDRESS METRICS_ADDRESS
"""

from __future__ import annotations

import json
import re
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

Array = NDArray[Any]

# For what another process does: to see a call end, to render its metrics.
PATIENCE_SECONDS = 60.0
# How old an answer of the metrics is: they are rendered a few times a second, and all who ask meanwhile get the same.
_AGE_HEADER = "Headwaiter-Age-Seconds"


@dataclass(frozen=True)
class Server:
    """Where the server is.

    Attributes:
        grpc: HOST:PORT of its service.
        metrics: HOST:PORT of its metrics.
    """

    grpc: str
    metrics: str

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels, as they are now."""
        lines = self._page().splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = [line for line in lines if re.match(rf"{name}[ {{]", line) and all(each in line for each in wanted)]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def _page(self) -> str:
        """The metrics; an answer that was rendered before this was called is not taken."""
        called = time.monotonic()
        while True:
            began = time.monotonic()
            with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=PATIENCE_SECONDS) as answer:
                page, age_seconds = answer.read().decode(), float(answer.headers[_AGE_HEADER])
            if age_seconds <= began - called:
                return str(page)
            time.sleep(0.01)

    def wait_for_metric(self, above: float, name: str, **labels: str) -> float:
        """Wait until a metric exceeds a value; what it then is.

        Raises:
            TimeoutError: It did not.
        """
        until = time.monotonic() + PATIENCE_SECONDS
        while (value := self.metric(name, **labels)) <= above:
            if time.monotonic() > until:
                raise TimeoutError(f"{name} {labels} stays at {value}")
            time.sleep(0.05)
        return value

    def wait_for_nothing(self, name: str, **labels: str) -> None:
        """Wait until a metric is 0.

        Raises:
            TimeoutError: It stays above.
        """
        until = time.monotonic() + PATIENCE_SECONDS
        while value := self.metric(name, **labels):
            if time.monotonic() > until:
                raise TimeoutError(f"{name} {labels} stays at {value}")
            time.sleep(0.05)


Check = Callable[[Server], str]


@dataclass(frozen=True)
class Outcome:
    """What became of a check.

    Attributes:
        name: Of the function.
        shows: RPCs and extensions that it shows to work.
        what: Its docstring.
        said: What it saw; empty if it failed.
        error: Why it failed; empty if it did not.
    """

    name: str
    shows: tuple[str, ...]
    what: str
    said: str
    error: str


_SHOWN: dict[Check, tuple[str, ...]] = {}


def shows(*rpcs: str) -> Callable[[Check], Check]:
    """Mark a function as a check of these RPCs and extensions."""

    def mark(check: Check) -> Check:
        _SHOWN[check] = rpcs
        return check

    return mark


def run(module: ModuleType, server: Server) -> None:
    """Run a module's checks in their order; print an outcome on each line, as JSON."""
    for check, rpcs in _SHOWN.items():
        if check.__module__ == module.__name__:
            said, error = "", ""
            try:
                said = check(server)
            except Exception:  # noqa: BLE001 - the other checks go on
                error = traceback.format_exc()
            outcome = Outcome(check.__name__, rpcs, (check.__doc__ or "").strip(), said, error)
            print(json.dumps(asdict(outcome)), flush=True)  # noqa: T201 - what the test reads


@contextmanager
def connected(server: Server) -> Iterator[InferenceServerClient]:
    """Triton's client as its examples make it."""
    client = InferenceServerClient(server.grpc)
    try:
        yield client
    finally:
        client.close()


def tensor(name: str, values: Array, datatype: str = "") -> InferInput:
    """An input of these values."""
    made = InferInput(name, list(values.shape), datatype or np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values)
    return made


def text(*texts: str, name: str = "text") -> InferInput:
    """An input of texts, one a row."""
    return tensor(name, np.array([[each.encode()] for each in texts], dtype=np.object_))


def outputs(*names: str) -> list[InferRequestedOutput]:
    """Outputs to ask for."""
    return [InferRequestedOutput(name) for name in names]


def slow(rounds: int = 10_000_000) -> list[InferInput]:
    """Inputs with which the model `slow` is busy for minutes, unless it is stopped."""
    return [tensor("rounds", np.array([rounds])), tensor("really", np.array([42]))]


def refused(call: Callable[..., object], *arguments: object, **options: object) -> InferenceServerException:
    """The error that a call must end with."""
    try:
        call(*arguments, **options)
    except InferenceServerException as error:
        return error
    raise AssertionError("the call was answered")


def status(error: InferenceServerException) -> str:
    """The name of an error's status: "NOT_FOUND"."""
    return str(error.status()).removeprefix("StatusCode.")


def expect(error: InferenceServerException, code: str, *words: str) -> str:
    """Hold an error to its status and to words that its message must have; both as they came."""
    assert status(error) == code, f"{status(error)}: {error.message()}"
    for word in words:
        assert word in error.message(), f"no {word!r} in {error.message()!r}"
    return f"{code}: {error.message()}"
