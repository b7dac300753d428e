"""Measures the serving of encoders and writes the page.

`make bench`, or `python benchmarks/encoders/run.py --packed MODELS --padded MODELS`. Candidates take turns in every
round, so that a machine whose speed drifts slows all of them alike; ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

from headwaiter_export.quantization.vnni import lacks_vnni  # noqa: E402 - after the path is set
from headwaiter_server.cpu import available_cpus, describe_processor  # noqa: E402
from rich.progress import Progress  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from benchmarks.encoders.aims import aims  # noqa: E402 - after the path is set
from benchmarks.encoders.candidates import Bundles, afternoon_server, our_servers  # noqa: E402
from benchmarks.encoders.choices import FULL, QUICK, Effort, best_pools, best_rules  # noqa: E402
from benchmarks.encoders.corpus import documents  # noqa: E402
from benchmarks.encoders.figures import CLOSED, Candidate, Load, Round  # noqa: E402
from benchmarks.encoders.null_bundle import write_null_bundle  # noqa: E402
from benchmarks.encoders.report import Page, aims_table, figures_tables, histograms, offline_table, spreads  # noqa: E402
from benchmarks.encoders.turns import Setup, Turn  # noqa: E402
from benchmarks.encoders.workloads import Passages, Text, build_workloads, write_workloads  # noqa: E402
from benchmarks.page import write_section  # noqa: E402
from benchmarks.rounds import play  # noqa: E402
from benchmarks.servers import MeasuredServer, run_json  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks.md"
BATCHING_PAGE = ROOT / "docs" / "batching.md"
_WARM_TEXTS = 64


def make_workloads(bundle: Path, effort: Effort) -> dict[str, list[Text]]:
    """The workloads as the model's own tokenizer counts them."""
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def count_tokens(texts: Sequence[str]) -> list[int]:
        return [len(each.ids) for each in tokenizer.encode_batch(list(texts))]

    return build_workloads(Passages(documents(), count_tokens), effort.counts)


def choose_rules(
    bundles: Bundles, texts: Path, effort: Effort, progress: Progress
) -> dict[tuple[Candidate, str], list[str]]:
    """The offline ideal's rules, by candidate and workload."""
    ideals = [(Candidate.SORTED_PACKED, bundles.packed, "fp32"), (Candidate.SORTED_PADDED, bundles.padded, "fp32")]
    if bundles.has_int8():
        ideals.append((Candidate.IDEAL_INT8, bundles.packed, "int8"))
    pairs = [(workload, *ideal) for workload in effort.workloads for ideal in ideals]
    return {
        (candidate, workload): best_rules(bundles.folder(repository), variant, texts, workload, effort)
        for workload, candidate, repository, variant in progress.track(pairs, description="the offline ideal")
    }


@contextmanager
def prepared(bundles: Bundles, texts: Path, effort: Effort, progress: Progress) -> Iterator[Setup]:
    """Choose what is to be chosen, start all servers, and warm them."""
    rules = choose_rules(bundles, texts, effort, progress)
    pools = best_pools(bundles, texts, effort, progress)
    with ExitStack() as stack:
        servers = stack.enter_context(our_servers(bundles))
        by_pool = {pool: stack.enter_context(afternoon_server(bundles, pool)) for pool in set(pools.values())}
        afternoon = {workload: by_pool[pool] for workload, pool in pools.items()}
        chosen = [
            *(f"{candidate}, {workload}: {ranked[0]}" for (candidate, workload), ranked in rules.items()),
            *(f"{Candidate.AFTERNOON}, {workload}: {pool}" for workload, pool in pools.items()),
        ]
        for server in progress.track([*servers.values(), *by_pool.values()], description="warming"):
            _warm(server, texts, bundles.model)
        yield Setup(bundles, effort, texts, rules, servers, afternoon, chosen)


def _warm(server: MeasuredServer, texts: Path, model: str) -> None:
    outstanding, _ = CLOSED[Load.FEW]
    run_json(
        "benchmarks.encoders.load", "closed", server.target, "--texts", texts, "--workload", "short", "--model", model,
        "--count", _WARM_TEXTS, "--outstanding", outstanding,
    )  # fmt: skip


def measure(setup: Setup, rounds: int, progress: Progress) -> tuple[list[Round], list[str]]:
    """The figures of every round, and what went wrong in them."""
    turns = [Turn(setup, number) for number in range(rounds)]
    problems = play(turns, progress)
    return [each.figures for each in turns], problems


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packed", type=Path, required=True, help="model repository with the packed bundle")
    parser.add_argument("--padded", type=Path, required=True, help="model repository with the padded bundle")
    parser.add_argument("--model", default="minilm", help="its name in both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one small round, to see that everything works; no page")
    parser.add_argument("--json", type=Path, help="also write the figures of every round here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    effort, rounds = (QUICK, 1) if options.quick else (FULL, options.rounds)
    with tempfile.TemporaryDirectory() as work, Progress() as progress:
        null, calibrations = Path(work) / "null", Path(work) / "calibrations"
        bundles = Bundles(options.packed, options.padded, null, options.model, calibrations)
        write_null_bundle(bundles.folder(bundles.packed), bundles.null / options.model / "1")
        workloads = make_workloads(bundles.folder(bundles.packed), effort)
        texts = Path(work) / "texts.json"
        write_workloads(texts, workloads)
        with prepared(bundles, texts, effort, progress) as setup:
            measured, problems = measure(setup, rounds, progress)
    figures = spreads(measured)
    for name, each in figures.items():
        print(f"{name:75} {each}")
    print(table := aims_table(aims(), measured))
    print(*setup.chosen, *problems, sep="\n")
    if options.json:
        everything = {"rounds": measured, "chosen": list(setup.chosen), "problems": problems}
        options.json.write_text(json.dumps(everything, indent=1) + "\n")
    if not options.quick:
        versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "tokenizers", "grpcio", "numpy"))
        machine = f"{available_cpus()} cores ({describe_processor()})"
        conditions = f"Measured on: {machine}, CPython {platform.python_version()}, {versions}; {rounds} rounds."
        write_section(PAGE, Page("encoder-texts", histograms(workloads)))
        # int8 is another matter without VNNI: neither kind of processor overwrites the figures of the other.
        kind = "-without-vnni" if lacks_vnni() else ""
        write_section(PAGE, Page(f"encoder-aims{kind}", f"{conditions}\n\n{table}"))
        chosen = "\n".join(f"- {each}" for each in setup.chosen)
        write_section(PAGE, Page(f"encoder-figures{kind}", f"{figures_tables(figures)}\n\nSet up as:\n\n{chosen}"))
        write_section(BATCHING_PAGE, Page(f"batching-offline{kind}", f"{conditions}\n\n{offline_table(figures)}"))


if __name__ == "__main__":
    main()
