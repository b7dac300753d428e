"""One client sends a hundred times as much as each of the others: these must not notice.

    python tests/reliability/shares.py [--seconds 20]

The others call at random, together for two fifths of what the server can answer, for the same time without the flood,
with it, and without it again, at the very same distances: once told apart by the metadata `headwaiter-fairness-key` and
once by tokens of an access file, where the flood gives itself the key of one of the others. Then two clients flood at
once whose weights differ. The engine sleeps, so that the machine is no part of what is measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # run as a file, from anywhere

from e2e.process import ServerProcess  # noqa: E402 - after the path is set
from headwaiter_proto.v1 import inference_pb2  # noqa: E402
from reliability.figures import Figure, report  # noqa: E402
from reliability.open_loop import Seen, Stage, send_all  # noqa: E402
from reliability.sleeping_server import MODEL, ONE_BY_ONE, TEXT, running_sleeping_server  # noqa: E402
from rich.progress import Progress  # noqa: E402
from unit.server.access_files import client, write_access  # noqa: E402

RUN_SECONDS = 0.02
OTHERS = 4
OTHER_RATE = 5.0
FLOOD_RATE = 100 * OTHER_RATE
# A hundred runs: the server lets calls wait for a twelfth of it.
DEADLINE_SECONDS = 2.0
# Of two that flood.
WEIGHTS = (3.0, 1.0)
_AIM = 2.0
_SEED = 11
_KEY = "headwaiter-fairness-key"
_FLOODED_CALLS = 100
_PATIENCE_SECONDS = 60.0
FLAGS = (*ONE_BY_ONE, "--lame-duck-seconds", "0", "--log-level", "error")

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Pace:
    """How fast everything goes; the tests are slower, so that no machine is too slow for them.

    Attributes:
        other_rate: Calls a second of each of the others.
        flood_rate: Of each flood.
        deadline_seconds: Of the others' calls.
        lead_seconds: What floods last beyond the others' time: what these take to begin, on a busy machine.
    """

    other_rate: float = OTHER_RATE
    flood_rate: float = FLOOD_RATE
    deadline_seconds: float = DEADLINE_SECONDS
    lead_seconds: float = 3.0


@dataclass(frozen=True)
class Caller:
    """One client.

    Attributes:
        name: Its own.
        metadata: What its calls come with.
    """

    name: str
    metadata: Metadata


@dataclass(frozen=True)
class Beside:
    """What became of calls.

    Attributes:
        others: Of the others, beside a flood or without one.
        flood: Of the flood; of several, one after the other.
    """

    others: list[Seen]
    flood: list[list[Seen]]

    @property
    def not_answered(self) -> int:
        """Calls of the others that were refused, too late or failed."""
        return sum(not each.good for each in self.others)

    @property
    def p99_seconds(self) -> float:
        """Of the others' calls."""
        ordered = sorted(each.seconds for each in self.others)
        return ordered[int(len(ordered) * 0.99)]


def keyed() -> tuple[list[Caller], Caller]:
    """The others and the flood, told apart by what they say of themselves."""
    others = [Caller(f"other-{number}", ((_KEY, f"other-{number}"),)) for number in range(OTHERS)]
    return others, Caller("flood", ((_KEY, "flood"),))


def with_tokens() -> tuple[list[Caller], Caller]:
    """The others and the flood, told apart by tokens; the flood says that it is one of the others."""
    others = [Caller(f"other-{number}", _shown(f"other-{number}")) for number in range(OTHERS)]
    return others, Caller("flood", (*_shown("flood"), (_KEY, "other-0")))


def token_of(name: str) -> str:
    """A client's token."""
    return f"the-token-of-{name}-0123456789"


@contextmanager
def serving(
    *flags: str, weights: dict[str, float] | None = None, run_seconds: float = RUN_SECONDS
) -> Iterator[ServerProcess]:
    """A sleeping server; with an access file for clients of these weights, if there are any."""
    with tempfile.TemporaryDirectory(prefix="headwaiter-shares-") as folder:
        if weights is not None:
            tables = [client(name, token_of(name), more=f"weight = {weight}") for name, weight in weights.items()]
            flags = (*flags, "--access-file", str(write_access(Path(folder) / "access.toml", *tables)))
        with running_sleeping_server(*FLAGS, *flags, run_seconds=run_seconds) as server:
            yield server


def send(
    server: ServerProcess,
    others: Sequence[Caller],
    floods: Sequence[Caller],
    seconds: float,
    flood_deadline: float | None = DEADLINE_SECONDS,
    pace: Pace | None = None,
) -> Beside:
    """Have the others call for some seconds, once the floods have come.

    Args:
        server: The server.
        others: They call at random, with a deadline.
        floods: They call until the others are done, and a while before.
        seconds: Of the others.
        flood_deadline: Of the floods' calls; None for none.
        pace: How fast they call; None as the long form has it.
    """
    pace = pace or Pace()
    message: bytes = inference_pb2.EmbedRequest(model=MODEL, texts=[TEXT]).SerializeToString()

    def one(caller: Caller, stage: Stage, deadline: float | None) -> list[Seen]:
        (seen,) = send_all(server.grpc, [message], [stage], deadline_seconds=deadline, metadata=caller.metadata)
        return seen

    with ThreadPoolExecutor(len(others) + len(floods)) as threads:
        before = _started(server)
        lasting = seconds + pace.lead_seconds
        flooding = [
            threads.submit(one, each, Stage(lasting, rate=pace.flood_rate, seed=number), flood_deadline)
            for number, each in enumerate(floods)
        ]
        _until(lambda: _started(server) >= before + _FLOODED_CALLS * len(floods))
        calling = [
            threads.submit(one, each, Stage(seconds, rate=pace.other_rate, seed=_SEED + number), pace.deadline_seconds)
            for number, each in enumerate(others)
        ]
        seen = [each for future in calling for each in future.result()]
        return Beside(seen, [future.result() for future in flooding])


def compare(
    server: ServerProcess, others: Sequence[Caller], flood: Caller, seconds: float, done: Callable[[], None]
) -> tuple[Beside, Beside]:
    """The others beside a flood, and before and after it, for half of the time each."""
    before = send(server, others, [], seconds / 2)
    done()
    beside = send(server, others, [flood], seconds)
    done()
    after = send(server, others, [], seconds / 2)
    done()
    return Beside([*before.others, *after.others], []), beside


def share_figures(how: str, without: Beside, beside: Beside) -> list[Figure]:
    """What the others noticed of a flood.

    Args:
        how: How they are told apart from it.
        without: Their calls without it.
        beside: Beside it.
    """
    ratio = beside.p99_seconds / without.p99_seconds
    (flood,) = beside.flood
    return [
        Figure(f"{how}: calls of the others beside the flood", len(beside.others)),
        Figure(f"{how}: of these not answered", beside.not_answered, aim="0", reached=not beside.not_answered),
        Figure(f"{how}: their p99 without the flood", without.p99_seconds * 1000, "ms"),
        Figure(f"{how}: their p99 beside it", beside.p99_seconds * 1000, "ms"),
        Figure(f"{how}: ratio", ratio, aim=f"at most {_AIM:g}", reached=ratio <= _AIM),
        Figure(f"{how}: calls of the flood", len(flood)),
        Figure(f"{how}: of these answered", sum(each.good for each in flood)),
    ]


def weight_figures(seconds: float) -> list[Figure]:
    """How two that flood at once are served, by their weights."""
    names = [f"weight-{weight:g}" for weight in WEIGHTS]
    with serving(weights=dict(zip(names, WEIGHTS, strict=True))) as server:
        floods = [Caller(name, _shown(name)) for name in names]
        (heavy, light) = send(server, [], floods, seconds).flood
    # Until the first of them is done, both want all there is.
    lasts = min(max(each.due for each in seen) for seen in (heavy, light))
    answered = [sum(each.good and each.due <= lasts for each in seen) for seen in (heavy, light)]
    wanted = WEIGHTS[0] / WEIGHTS[1]
    ratio = answered[0] / max(1, answered[1])
    name = f"answers of a client with weight {WEIGHTS[0]:g} for one of a client with weight {WEIGHTS[1]:g}"
    return [Figure(name, ratio, aim=f"{wanted:g}, within a tenth", reached=abs(ratio / wanted - 1) <= 1 / 10)]


def _shown(name: str) -> Metadata:
    return (("authorization", f"Bearer {token_of(name)}"),)


def _started(server: ServerProcess) -> float:
    return server.scrape().get('headwaiter_requests_started_total{method="headwaiter.v1.InferenceService/Embed"}', 0.0)


def _until(reached: Callable[[], bool]) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while not reached():
        assert time.monotonic() < until, "the flood has not come"
        time.sleep(0.05)


def main() -> int:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each of the two loads, alike for each way")
    options = parser.parse_args()
    figures: list[Figure] = []
    with suppress(KeyboardInterrupt), Progress() as progress:
        task = progress.add_task("flooding", total=7)

        def done() -> None:
            progress.advance(task)

        with serving() as server:
            figures += share_figures("by key", *compare(server, *keyed(), options.seconds, done))
        others, flood = with_tokens()
        with serving(weights=dict.fromkeys([each.name for each in (*others, flood)], 1.0)) as server:
            figures += share_figures("by token", *compare(server, others, flood, options.seconds, done))
        figures += weight_figures(options.seconds / 2)
        done()
        conditions = (
            f"{OTHERS} clients with {OTHER_RATE:g} calls a second each for {options.seconds:g} s, and one with "
            f"{FLOOD_RATE:g}; an engine that sleeps {RUN_SECONDS * 1000:g} ms for each text, one at a time; deadline "
            f"{DEADLINE_SECONDS:g} s"
        )
        return report("shares", conditions, figures)
    return 130


if __name__ == "__main__":
    sys.exit(main())
