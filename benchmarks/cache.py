"""What remembering answers saves, and what it costs where nothing comes again.

`python benchmarks/cache.py --packed build/encoders/packed`. Two servers with the same MiniLM take turns, one of which
remembers answers. Texts come once each, or by Zipf's law: of the texts there are, the k-th most popular is asked for in
proportion to 1/k. The servers begin anew in each round, with nothing remembered.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

import grpc  # noqa: E402 - after the path is set
from headwaiter_proto.inference import grpc_service_pb2 as inference  # noqa: E402
from headwaiter_server.cpu import available_cpus, describe_processor  # noqa: E402
from rich.progress import Progress  # noqa: E402

from benchmarks.encoders.aims import Aim, at_most  # noqa: E402
from benchmarks.encoders.choices import FULL, QUICK  # noqa: E402
from benchmarks.encoders.figures import Round  # noqa: E402
from benchmarks.encoders.report import Page, aims_table, spreads  # noqa: E402
from benchmarks.encoders.run import make_workloads  # noqa: E402
from benchmarks.encoders.workloads import Text, write_workloads  # noqa: E402
from benchmarks.page import write_section  # noqa: E402
from benchmarks.servers import MeasuredServer, measured_server, run_json  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks.md"
SECTION = "response-cache"
CACHE_BYTES = 64 << 20
ONCE, ZIPF = "once each", "by Zipf's law"
OFF, ON = "cache off", "cache on"
OUTSTANDING = 64
# What every answer costs that is remembered and never asked for again.
_MOST_COST = 1.05


@dataclass(frozen=True)
class Setup:
    """What all rounds share.

    Attributes:
        packed: Model repository.
        model: Name of the model.
        pool: The texts there are.
        texts: Calls by Zipf's law in a round.
        work: Folder for what the load reads.
    """

    packed: Path
    model: str
    pool: Sequence[Text]
    texts: int
    work: Path


def aims() -> list[Aim]:
    """What should come out."""
    off, on = (_figure(ONCE, each, "CPU s/1000 texts") for each in (OFF, ON))
    return [Aim("CPU a text of MiniLM with the cache on against off, no text twice", on, off, at_most(_MOST_COST))]


def zipf(pool: Sequence[Text], count: int, seed: int) -> list[Text]:
    """Texts of a pool, each drawn in proportion to one over its rank."""
    generator = random.Random(seed)
    ranked = generator.sample(pool, len(pool))
    return generator.choices(ranked, [1 / rank for rank in range(1, len(ranked) + 1)], k=count)


def measure_round(setup: Setup, number: int, progress: Progress) -> Round:
    """One turn of both servers at both streams."""
    streams = {ONCE: list(setup.pool), ZIPF: zipf(setup.pool, setup.texts, number)}
    path = setup.work / f"round-{number}.json"
    write_workloads(path, streams)
    figures: Round = {}
    task = progress.add_task("round", total=len(streams) * 2)
    for stream, texts in streams.items():
        with ExitStack() as stack:
            sizes = {OFF: 0, ON: CACHE_BYTES}
            servers = {
                name: stack.enter_context(measured_server(setup.packed, "--cache-bytes", str(size)))
                for name, size in sizes.items()
            }
            for name in sorted(servers, reverse=number % 2 == 1):
                measured = send(setup, servers[name], path, stream, len(texts))
                figures |= {_figure(stream, name, quantity): value for quantity, value in measured.items()}
                progress.advance(task)
    progress.remove_task(task)
    return figures


def send(setup: Setup, server: MeasuredServer, path: Path, stream: str, count: int) -> dict[str, float]:
    """One stream at one server, a text a call."""
    before = server.cpu_seconds()
    result = run_json(
        "benchmarks.encoders.load", "closed", server.target, "--texts", path, "--workload", stream, "--model",
        setup.model, "--count", count, "--outstanding", OUTSTANDING, "--limit-seconds", 240,
    )  # fmt: skip
    cpu_seconds = server.cpu_seconds() - before
    assert not result["refused_calls"], f"{result['refused_calls']} calls were refused"
    return {
        "CPU s/1000 texts": 1000 * cpu_seconds / count,
        "texts/s": result["texts_per_second"],
        "p50 ms": 1000 * result["p50_seconds"],
        "hits, %": 100 * hits(server.target, setup.model) / count,
    }


def hits(target: str, model: str) -> int:
    """How many calls a server has answered from what it remembered, or by the run of another call."""
    with grpc.insecure_channel(target) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelStatistics")
        answer = call(inference.ModelStatisticsRequest(name=model).SerializeToString())
    (statistics,) = inference.ModelStatisticsResponse.FromString(answer).model_stats
    return statistics.inference_stats.cache_hit.count


def _figure(stream: str, server: str, quantity: str) -> str:
    return f"texts {stream}, {server}: {quantity}"


def markdown(rounds: Sequence[Round], setup: Setup) -> str:
    """The page's section: the aim, then every figure."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "grpcio", "numpy"))
    machine = f"{available_cpus()} cores ({describe_processor()})"
    streams = f"{len(setup.pool)} different texts, {setup.texts} calls by Zipf's law"
    lines = [
        f"Measured on: {machine}, CPython {platform.python_version()}, {versions}; {len(rounds)} rounds, {streams}.",
        "",
        aims_table(aims(), list(rounds)),
        "",
        "| figure | median (smallest to largest) |",
        "|---|---:|",
        *(f"| {name} | {spread} |" for name, spread in spreads(rounds).items()),
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packed", type=Path, required=True, help="model repository with the packed bundle")
    parser.add_argument("--model", default="minilm", help="its name")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one small round, to see that everything works; no page")
    parser.add_argument("--json", type=Path, help="also write the figures of every round here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    effort, texts, count = (QUICK, 512, 1) if options.quick else (FULL, 4000, options.rounds)
    bundle = max((options.packed / options.model).glob("[0-9]*"), key=lambda folder: int(folder.name))
    with tempfile.TemporaryDirectory() as work, Progress() as progress:
        # Each once: a few sentences come twice.
        pool = list(dict.fromkeys(make_workloads(bundle, effort)["short"]))
        setup = Setup(options.packed, options.model, pool, texts, Path(work))
        rounds = [
            measure_round(setup, number, progress) for number in progress.track(range(count), description="rounds")
        ]
    print(table := markdown(rounds, setup))
    if options.json:
        options.json.write_text(json.dumps({"rounds": rounds}, indent=1) + "\n")
    if not options.quick:
        write_section(PAGE, Page(SECTION, table))


if __name__ == "__main__":
    main()
