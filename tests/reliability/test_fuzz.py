"""Malformed requests, in a short form: none crashes the server, hangs, gets UNKNOWN or INTERNAL, or harms others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from e2e.process import ServerProcess, running_server
from google.protobuf.message import DecodeError
from reliability.fuzz import flags
from reliability.fuzz_calls import Ended, problem
from reliability.fuzz_cases import KINDS, TYPED, Case, make_case, read_case
from reliability.fuzz_methods import CONTROLS, methods
from reliability.fuzz_models import gather
from reliability.fuzz_run import run_cases, shared_memory
from reliability.fuzz_seeds import MODELS, SPARE

pytestmark = pytest.mark.torch

CALLS = 20_000
SEED = 7
IN_FLIGHT = 64
CORPUS = Path(__file__).parent / "corpus"
EMBED = "/headwaiter.v1.InferenceService/Embed"


@pytest.fixture(scope="module")
def fuzzed(
    encoders_dir: Path, generators_dir: Path, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server with a small model for each task, and everything else that callers can reach."""
    folder = tmp_path_factory.mktemp("fuzzed")
    models = gather(folder, encoders_dir, generators_dir, models_dir)
    with (
        shared_memory(),
        (folder / "log").open("w") as log,
        running_server(*flags(models), log=log) as server,
    ):
        yield server


async def test_malformed_requests_harm_nobody(fuzzed: ServerProcess, tmp_path: Path) -> None:
    """Twenty thousand are each answered as they may be, and good requests between them as before, to the last bit."""
    asked = methods()
    cases = (make_case(asked, SEED, number) for number in range(CALLS))
    tally = await run_cases(fuzzed, asked, cases, in_flight=IN_FLIGHT, keep=tmp_path)
    assert tally.failures == {}
    assert tally.wrong == []
    assert fuzzed.process.poll() is None
    assert tally.cases == CALLS
    assert set(tally.kinds) == set(KINDS)
    assert tally.golden >= CALLS // 1000
    assert tally.reached > 0.3 * tally.kinds[TYPED]


async def test_corpus_stays_harmless(fuzzed: ServerProcess) -> None:
    """What was found once, and a request of each kind to each method, is answered as it may be."""
    cases = [read_case(file) for file in sorted(CORPUS.glob("*.json"))]
    tally = await run_cases(fuzzed, methods(), cases, in_flight=IN_FLIGHT, keep=None)
    assert tally.failures == {}
    assert tally.wrong == []
    assert fuzzed.process.poll() is None
    assert tally.cases == len(cases) > len(methods())


def test_corpus_is_small() -> None:
    """It may be read, and is no burden."""
    assert sum(file.stat().st_size for file in CORPUS.iterdir()) < 200_000


def test_case_can_be_made_again_and_kept(tmp_path: Path) -> None:
    """A seed and a number make the same case each time, and what was kept of it reads the same."""
    asked = methods()
    for number in range(300):
        case = make_case(asked, 1, number)
        assert make_case(asked, 1, number) == case
        case.write(tmp_path / case.kind)
        (kept,) = (tmp_path / case.kind).glob(f"1-{number}.json")
        read = read_case(kept)
        assert (read.messages, read.metadata) == (case.messages, case.metadata)
        assert (read.path, read.timeout_seconds, read.cancel_after) == (
            case.path,
            case.timeout_seconds,
            case.cancel_after,
        )
    assert json.loads(kept.read_text())["path"] == case.path


def test_models_that_others_use_are_neither_loaded_nor_unloaded() -> None:
    """Callers may do so; but then nobody would know what good requests are to be answered with."""
    controls = {each.path: each.kind for each in methods() if each.name in CONTROLS}
    asked = [each for each in methods() if each.path in controls]
    named = set()
    for number in range(2000):
        case = make_case(asked, 2, number)
        for message in case.messages:
            with suppress(DecodeError):
                named.add(getattr(controls[case.path].FromString(message), "model_name"))  # noqa: B009 - of both kinds
    assert named & set(MODELS) == {SPARE}


@pytest.mark.parametrize(
    ("code", "details", "told"),
    [
        (grpc.StatusCode.UNKNOWN, "Unexpected", "UNKNOWN"),
        (grpc.StatusCode.INTERNAL, "internal error 17", "INTERNAL"),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", "broke"),
        (grpc.StatusCode.CANCELLED, "", "cancelled"),
        (grpc.StatusCode.INVALID_ARGUMENT, "is wrong", "without the field"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "received metadata size exceeds hard limit", "too long"),
        (grpc.StatusCode.NOT_FOUND, "FileNotFoundError: /usr/lib/x", "insides"),
    ],
)
def test_what_no_call_may_end_with_is_noticed(code: grpc.StatusCode, details: str, told: str) -> None:
    """Each is told as what is wrong with the case."""
    found = problem(Case("a", TYPED, EMBED, (b"",)), Ended(code, details, {}))
    assert found is not None
    assert told in found


def test_call_that_hangs_is_noticed() -> None:
    """Whatever it ends with."""
    found = problem(
        Case("a", TYPED, EMBED, (b"",)), Ended(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", {}, [], 60.0)
    )
    assert found is not None
    assert "hung" in found


def test_good_and_refused_calls_are_not_noticed() -> None:
    """An answer, and a status that a caller brings upon itself, are no failures."""
    case = Case("a", TYPED, EMBED, (b"/usr/x",), cancel_after=0)
    for code, details in (
        (grpc.StatusCode.OK, ""),
        (grpc.StatusCode.CANCELLED, ""),
        (grpc.StatusCode.NOT_FOUND, "/usr/"),
    ):
        assert problem(case, Ended(code, details, {})) is None
