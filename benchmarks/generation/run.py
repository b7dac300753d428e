"""Measures generation and writes the page.

`make bench-generation`, or `python benchmarks/generation/run.py --decoder MODELS --decoder-checkpoint FOLDER
--ctranslate FOLDER`. Candidates take turns in every round, so that a machine whose speed drifts slows all of them
alike; ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

from headwaiter_server.cpu import available_cpus, describe_processor  # noqa: E402
from rich.progress import Progress  # noqa: E402

from benchmarks.encoders.report import Page, aims_table, spreads  # noqa: E402 - after the path is set
from benchmarks.generation.aims import aims  # noqa: E402
from benchmarks.generation.candidates import Models, Setting, ctranslate_server, servers  # noqa: E402
from benchmarks.generation.efforts import FULL, QUICK, Effort  # noqa: E402
from benchmarks.generation.figures import Round, Workload  # noqa: E402
from benchmarks.generation.report import listing, markdown  # noqa: E402
from benchmarks.generation.turns import Setup, Turn, check_answers  # noqa: E402
from benchmarks.generation.workloads import decoder_requests, pronounce_requests, write_requests  # noqa: E402
from benchmarks.page import write_section  # noqa: E402
from benchmarks.pronounce_words import sample_words  # noqa: E402
from benchmarks.rounds import play  # noqa: E402
from benchmarks.servers import run_json  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks.md"
SECTION = "generation"
PRONOUNCE_CHECKPOINT = ROOT / "examples" / "pronounce" / "checkpoint"
_WARM_SECONDS = 1.0
_VERSIONS = ("onnxruntime", "torch", "transformers", "ctranslate2", "grpcio")


def best_setting(models: Models, requests: Path, effort: Effort, progress: Progress) -> tuple[Setting, list[str]]:
    """CTranslate2 at its fastest, and how fast each of its settings was."""
    if len(effort.settings) == 1:
        return effort.settings[0], []
    speeds: list[tuple[float, Setting]] = []
    for setting in progress.track(effort.settings, description="CTranslate2's settings"):
        with ctranslate_server(models, setting, "float32") as server:
            result = run_json(
                "benchmarks.generation.load", "closed", server.target, "--requests", requests,
                "--seconds", effort.search_seconds,
            )  # fmt: skip
            speeds.append((result["tokens"] / result["wall_seconds"], setting))
    _, fastest = max(speeds, key=lambda each: each[0])
    return fastest, [f"{setting}: {speed:.0f} tokens/s" for speed, setting in speeds]


@contextmanager
def prepared(models: Models, work: Path, effort: Effort, progress: Progress) -> Iterator[tuple[Setup, list[str]]]:
    """Write the workloads, choose what is to be chosen, start all servers, and warm them."""
    decoder = decoder_requests(effort.requests)
    requests = {workload: work / f"{workload}.json" for workload in Workload}
    write_requests(requests[Workload.DECODER], decoder)
    write_requests(requests[Workload.PRONOUNCE], pronounce_requests(sample_words(effort.words)))
    setting, tried = best_setting(models, requests[Workload.DECODER], effort, progress)
    with servers(models, setting, work) as started:
        for (_, workload), server in progress.track(started.items(), description="warming"):
            run_json(
                "benchmarks.generation.load", "closed", server.target, "--requests", requests[workload],
                "--seconds", _WARM_SECONDS, "--outstanding", available_cpus(),
            )  # fmt: skip
        mean = statistics.mean(each.new_tokens for each in decoder)
        yield Setup(models, effort, requests, mean, started, setting), tried


def measure(setup: Setup, progress: Progress) -> tuple[list[Round], list[str]]:
    """The figures of every round, and what went wrong in them."""
    turns = [Turn(setup, number) for number in range(setup.effort.rounds)]
    problems = play(turns, progress)
    return [each.figures for each in turns], problems


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decoder", type=Path, required=True, help="model repository with the decoder's bundle")
    parser.add_argument("--decoder-checkpoint", type=Path, required=True, help="what it was exported from")
    parser.add_argument("--ctranslate", type=Path, required=True, help="the same, converted for CTranslate2")
    parser.add_argument("--pronounce", type=Path, default=ROOT / "models", help="model repository with pronounce")
    parser.add_argument("--rounds", type=int, help="more of them take longer and are steadier")
    parser.add_argument("--quick", action="store_true", help="one small round, to see that everything works; no page")
    parser.add_argument("--json", type=Path, help="also write the figures of every round here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    effort = QUICK if options.quick else FULL
    if options.rounds:
        effort = replace(effort, rounds=options.rounds)
    models = Models(
        repositories={Workload.DECODER: options.decoder, Workload.PRONOUNCE: options.pronounce},
        checkpoints={Workload.DECODER: options.decoder_checkpoint, Workload.PRONOUNCE: PRONOUNCE_CHECKPOINT},
        ctranslate=options.ctranslate,
    )
    with (
        tempfile.TemporaryDirectory() as work,
        Progress() as progress,
        prepared(models, Path(work), effort, progress) as (setup, tried),
    ):
        contexts = run_json("benchmarks.generation.contexts", models.bundle(Workload.DECODER))
        agreements = check_answers(setup)
        rounds, problems = measure(setup, progress)
    print(listing(spreads(rounds)))
    print(aims_table(aims(), rounds))
    print(*problems, sep="\n")
    versions = ", ".join(f"{name} {version(name)}" for name in _VERSIONS)
    machine = f"{available_cpus()} cores ({describe_processor()})"
    conditions = f"Measured on: {machine}, CPython {platform.python_version()}, {versions}; {effort.rounds} rounds."
    chosen = [f"CTranslate2: {setup.setting}", *(f"CTranslate2 tried with {each}" for each in tried), *problems]
    page = markdown(rounds, conditions, chosen, agreements, contexts)
    if options.json:
        everything = {
            "rounds": rounds, "chosen": chosen, "agreements": agreements, "contexts": contexts,
            "conditions": conditions, "page": page,
        }  # fmt: skip
        options.json.write_text(json.dumps(everything, indent=1) + "\n")
    if not options.quick:
        write_section(PAGE, Page(SECTION, page))


if __name__ == "__main__":
    main()
