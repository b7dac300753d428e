"""Amplification and abuse of HTTP/2: what hostile peers can do to a server, and to its good callers.

    python tests/reliability/abuse.py [--seconds 10] [--scale 1.0] [--models models] [--only NAME ...]

Every attack goes on for so many seconds beside steady good calls, whose times are compared with those of the seconds
before. Then every message of eight megabytes of parts is sent, three times each, to a server that does nothing else.

A hostile peer has a machine of its own. Here it shares the cores of the server that it attacks, and good calls would
wait for them whatever it sends. So the attacking process runs only where the server and the good client leave a core
idle (SCHED_IDLE). It sends no more than that lets it: how much it was stands in the table.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # run as a file, from anywhere

from reliability.abuse_attacks import ATTACKS, Attack, Outcome, run_attack  # noqa: E402 - after the path is set
from reliability.abuse_bombs import EMBED_TEXT, Bomb, bombs, streamed_bombs  # noqa: E402
from reliability.abuse_watch import AbusedServer, Window, abused_server, send, wait_until, watched  # noqa: E402
from reliability.figures import Figure, report  # noqa: E402
from rich.progress import Progress  # noqa: E402

_MOST_GROWN_MB = 100.0
_BACK_MB = 20.0
_BACK_SECONDS = 60.0
_MOST_SLOWER = 2.0
_MOST_LAG_SECONDS = 0.020
_TRIES = 3
# Of the attack that has models work: their rows are all taken, and what they keep for their next texts is there.
_WARM_CALLS = 600
_SHOWN = 10


def give_way() -> None:
    """Have this process run only where nobody else would."""
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)


def attack_for(server: AbusedServer, attack: Attack, count: int, seconds: float) -> tuple[Window, Outcome]:
    """Attack again and again, from a process of its own, while good calls are made."""
    outcome: Outcome = Counter()
    with ProcessPoolExecutor(1, get_context("spawn"), give_way) as attacker, watched(server) as window:
        ends = time.monotonic() + seconds
        while not outcome or time.monotonic() < ends:
            outcome += attacker.submit(run_attack, attack.name, server.target, count).result()
            outcome["rounds"] += 1
    return window, outcome


@dataclass
class Seen:
    """What an attack did.

    Attributes:
        attack: The attack.
        outcome: What came of it, as the attacker saw it.
        errors: Good calls that failed, before it and beside it.
        slower: The good calls' p99 beside it, as a multiple of that before.
        grown_mb: How much more memory the server held at its peak.
        back_seconds: After how long that was given back; None if it never was.
    """

    attack: Attack
    outcome: Outcome
    errors: list[str]
    slower: float
    grown_mb: float
    back_seconds: float | None

    def figures(self) -> list[Figure]:
        """The rows of the table that are its own."""
        told = ", ".join(f"{count:,} {what}" for what, count in sorted(self.outcome.items()))
        return [
            Figure(
                f"{self.attack.name} ({told}): p99 of good calls",
                self.slower,
                "times that before",
                aim=f"<= {_MOST_SLOWER:g}",
                reached=self.slower <= _MOST_SLOWER,
            ),
            Figure(
                f"{self.attack.name}: memory at its peak",
                self.grown_mb,
                "MB more",
                aim=f"<= {_MOST_GROWN_MB:g}",
                reached=self.grown_mb <= _MOST_GROWN_MB,
            ),
        ]


def see(server: AbusedServer, attack: Attack, *, seconds: float, scale: float) -> Seen:
    """Attack, and see what that does."""
    time.sleep(1)  # what came before is over
    before_mb = server.resident_mb
    with watched(server) as calm:
        time.sleep(seconds)
    window, outcome = attack_for(server, attack, max(1, round(attack.count * scale)), seconds)
    return Seen(
        attack,
        outcome,
        calm.errors + window.errors,
        window.quantile(0.99) / calm.quantile(0.99),
        window.peak_mb - before_mb,
        wait_until(lambda: server.resident_mb - before_mb <= _BACK_MB, _BACK_SECONDS),
    )


def common_figures(seen: Sequence[Seen]) -> list[Figure]:
    """What holds for all attacks together."""
    errors = [error for each in seen for error in each.errors]
    print(*errors[:_SHOWN], sep="\n", file=sys.stderr)  # noqa: T201 - a script, for a person
    never = [each.attack.name for each in seen if each.back_seconds is None]
    longest = max((each.back_seconds or 0.0 for each in seen), default=0.0)
    return [
        Figure("good calls that failed beside any attack", len(errors), aim="0", reached=not errors),
        Figure(
            f"memory back within {_BACK_MB:g} MB of what it was",
            ", ".join(never) or longest,
            "never" if never else "s, the longest",
            aim=f"<= {_BACK_SECONDS:g}",
            reached=not never,
        ),
    ]


def lag_of(server: AbusedServer, bomb: Bomb) -> float:
    """How long the event loop stands still for a message: the least of several times, as others use the machine."""
    lags = []
    for _ in range(_TRIES):
        began = time.monotonic()
        send(server, bomb.method, bomb.data, streamed=bomb.streamed)
        time.sleep(0.02)
        lags.append(server.longest_lag(began, time.monotonic()))
    return min(lags)


def bomb_figures(server: AbusedServer, progress: Progress) -> list[Figure]:
    """What messages of many parts do."""
    before_mb = server.resident_mb
    plain = lag_of(server, EMBED_TEXT)
    found = [*bombs(), *streamed_bombs()]
    lags: dict[str, float] = {}
    with watched(server) as window:
        for bomb in progress.track(found, description="messages of many parts"):
            lags[bomb.name] = lag_of(server, bomb)
    worst = max(lags, key=lags.__getitem__)
    grown = window.peak_mb - before_mb
    return [
        Figure("event loop stands still for 8 MB of one text", plain * 1e3, "ms"),
        Figure("messages of 8 MB of parts", len(found)),
        Figure(
            f"event loop stands still for the worst of them ({worst})",
            lags[worst] * 1e3,
            "ms",
            aim=f"<= {_MOST_LAG_SECONDS * 1e3:g}",
            reached=lags[worst] <= _MOST_LAG_SECONDS,
        ),
        Figure("good calls that failed beside them", len(window.errors), aim="0", reached=not window.errors),
        Figure(
            "memory at its peak beside them",
            grown,
            "MB more",
            aim=f"<= {_MOST_GROWN_MB:g}",
            reached=grown <= _MOST_GROWN_MB,
        ),
    ]


def run(models: Path, chosen: Sequence[Attack], *, seconds: float, scale: float) -> int:
    """Attack a server in every way; the exit code."""
    log_path = ROOT / "build" / "reliability" / "abuse.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("w", encoding="utf-8") as log, abused_server(models, log) as server, Progress() as progress:
        # What is made once, at the first call of its kind, is no attack's doing.
        run_attack("zero windows", server.target, _WARM_CALLS)
        seen = [
            see(server, attack, seconds=seconds, scale=scale)
            for attack in progress.track(chosen, description="attacks")
        ]
        figures = [figure for each in seen for figure in each.figures()]
        figures += [*common_figures(seen), *bomb_figures(server, progress)]
        code = server.process.terminate()
        figures.append(Figure("exit code of the server in the end", code, aim="0", reached=not code))
    return report("abuse", f"Each attack for {seconds:g} s, at {scale:g} of its full count a round", figures)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each attack, and of the calm before it")
    parser.add_argument("--scale", type=float, default=1.0, help="part of each attack's full count")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="repository with the pronounce model")
    parser.add_argument("--only", nargs="+", choices=[each.name for each in ATTACKS], help="these attacks alone")
    options = parser.parse_args()
    chosen = [attack for attack in ATTACKS if not options.only or attack.name in options.only]
    return run(options.models, chosen, seconds=options.seconds, scale=options.scale)


if __name__ == "__main__":
    sys.exit(main())
