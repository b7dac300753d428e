"""Requests that make every run fail which they are in: each fails by itself, and nobody else does.

    python tests/reliability/poison.py [--requests 100000]

One request in a hundred is poisoned. Texts hold a word that raises in onnxruntime, or one that turns the answers of its
whole run into what is no number. Rows of tensors hold a NaN or an infinity, which a server refuses, or passes on where
it is told to.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # run as a file, from anywhere

from e2e.process import running_server  # noqa: E402 - after the path is set
from reliability.figures import Figure, report  # noqa: E402
from reliability.poison_calls import Caller, Rows, Tally, Texts, ask_all  # noqa: E402
from reliability.poison_models import write_models  # noqa: E402
from rich.progress import Progress  # noqa: E402

# What is sent: what it is called, who sends it, and what the server is told about it.
KINDS: dict[str, tuple[Caller, str]] = {
    "texts": (Texts(), "refuse"),
    "tensors, refused": (Rows(refused=True), "refuse"),
    "tensors, passed on": (Rows(refused=False), "pass"),
}
# Of all requests; the rest are texts.
_TENSORS = 0.2
_SEED = 11
# Runs of models as small as these are over before the next request comes: they wait for it.
_SHARED_RUNS = ("--batch-delay-seconds", "0.005", "--calibration", "off", "--lame-duck-seconds", "0")


def poison(
    repository: Path, kind: str, count: int, seed: int = _SEED, watch: Callable[[], None] = lambda: None
) -> Tally:
    """Start a server, and send it requests of one kind.

    Args:
        repository: With the models of `poison_models`.
        kind: Of `KINDS`.
        count: How many requests.
        seed: Of what they are.
        watch: Called after each.
    """
    caller, nonfinite = KINDS[kind]
    flags = ("--models", str(repository), "--nonfinite-inputs", nonfinite, *_SHARED_RUNS)
    # It says of each text that fails why; here all of them are meant to.
    with Path(os.devnull).open("w") as log, running_server(*flags, log=log) as server:
        return asyncio.run(ask_all(server.grpc, caller, count, seed, watch))


def figures(kind: str, tally: Tally) -> list[Figure]:
    """What is told of requests of a kind, and what it is held to."""
    told = [
        Figure(f"{kind}: healthy", tally.healthy),
        Figure(f"{kind}: healthy, in a run with others", tally.shared),
        Figure(f"{kind}: healthy, failed or answered wrongly", tally.wrong, "", "0", tally.wrong == 0),
        Figure(f"{kind}: poisoned", tally.poisoned),
        Figure(f"{kind}: poisoned, not told so, or more than that", tally.unlike, "", "0", tally.unlike == 0),
    ]
    if tally.ids:
        told.append(Figure(f"{kind}: errors with the id of another", tally.reused_ids, "", "0", tally.reused_ids == 0))
    return told


def main() -> int:
    """Run and report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000, help="all of them together")
    count = parser.parse_args().requests
    tensors = int(count * _TENSORS)
    told: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="headwaiter-poison-") as folder, Progress() as progress:
        repository = write_models(Path(folder))
        for kind in KINDS:
            share = count - 2 * tensors if kind == "texts" else tensors
            task = progress.add_task(kind, total=share)
            tally = poison(repository, kind, share, watch=lambda task=task: progress.advance(task))  # type: ignore[misc]
            told += figures(kind, tally)
            for example in tally.examples:
                progress.console.print(f"[red]{example}")
    return report("poison", f"{count:,} requests, 1 % of them poisoned", told)


if __name__ == "__main__":
    sys.exit(main())
