"""The server's own engine without a server: `python -m benchmarks.generation.offline BUNDLE --requests FILE ...`.

All requests are there from the beginning, so that every row always has somebody: what the engine can do, with nothing
of gRPC, tokenizing and waiting in it. Prints its figures as JSON, and what a step is made of.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.allocator import hold_no_freed_memory
from headwaiter_server.cpu import available_cpus
from headwaiter_server.errors import ModelUnavailableError
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.generation.outcome import IterationFacts
from headwaiter_server.generation.sequence import Generated, GenerationTask
from headwaiter_server.lifecycle.building import BuiltModel, build_model
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.model.cached import CachedModel
from headwaiter_server.model.onnx import OnnxGraph
from headwaiter_server.scheduling.calls import Call, Pending, Terms
from headwaiter_server.scheduling.dispatcher import Dispatcher
from headwaiter_server.scheduling.policy import Budget
from headwaiter_server.scheduling.shares import FairShares

from benchmarks.generation.outcomes import Window
from benchmarks.generation.workloads import Request, read_requests

# As the server has them.
_BATCH_TOKENS = 512
_SWITCH_INTERVAL_SECONDS = 0.0005


@dataclass
class Steps:
    """Sums over the iterations of a window; implements the lane's `Observer`."""

    window: Window
    begun: float
    facts: list[IterationFacts] = field(default_factory=list)

    def iteration_finished(self, facts: IterationFacts) -> None:
        """One iteration has ended well."""
        if self.window.holds(time.monotonic() - self.begun):
            self.facts.append(facts)

    def figures(self) -> dict[str, float]:
        """What an iteration is like."""
        stepped = [each for each in self.facts if each.rows]
        seconds = sum(each.seconds for each in self.facts)
        return {
            "steps": len(stepped),
            "rows_per_step": sum(each.rows for each in stepped) / len(stepped),
            "dummy_rows_per_step": sum(each.dummy_rows for each in stepped) / len(stepped),
            "iteration_seconds": seconds / len(self.facts),
            "python_share": sum(each.python_seconds for each in self.facts) / seconds,
            "python_seconds_per_iteration": sum(each.python_seconds for each in self.facts) / len(self.facts),
            "copied_bytes_per_step": sum(each.copied_bytes for each in self.facts) / len(stepped),
            "prefill_tokens_per_step": sum(each.prefill_tokens for each in self.facts) / len(stepped),
        }


def load(folder: Path, variant: str) -> BuiltModel:
    """Build the model of a bundle as the server does, on one thread a run."""
    location = BundleLocation(folder.parent.name, 1, folder)
    return build_model(location, variant, lambda name, graph: OnnxGraph.load(name, graph, 1))


async def generate(
    built: BuiltModel, requests: list[Request], rows: int, window: Window
) -> tuple[list[float], dict[str, float]]:
    """Generate until the window is over.

    Args:
        built: The model.
        requests: What; they are taken in turn.
        rows: Most rows of each running batch.
        window: What of the time counts.

    Returns:
        When tokens came, and figures of the steps.
    """
    begun = time.monotonic()
    dispatcher = Dispatcher(available_cpus(), on_crash=lambda: None)
    steps, failures = Steps(window, begun), list[BaseException]()
    assert isinstance(built.body, CachedModel)
    lane = GenerationLane(
        built.body, budget=Budget(rows, _BATCH_TOKENS), workers=dispatcher.workers, threads=1, batching="auto",
        shares=FairShares(), numbers=itertools.count(), clock=dispatcher.clock, observer=steps,
        on_failure=failures.append,
    )  # fmt: skip
    dispatcher.add_lane(lane)
    loop = asyncio.get_running_loop()
    token_times: list[float] = []
    most = built.manifest.limits.max_new_tokens

    def submit(request: Request) -> None:
        assert built.tokenizer is not None
        (source,) = built.tokenizer.encode_all([request.text], "texts")
        # Its tokens count when they come, also of a text that is not done when the window ends.
        task = GenerationTask(
            source, Decoding(request.new_tokens or most), watch=lambda progress: token_times.append(progress.seconds)
        )
        future: asyncio.Future[list[Generated]] = loop.create_future()
        future.add_done_callback(_ended)
        lane.submit([Pending(Call(Terms(begun), 1, begun, future), 0, task, len(source))])

    for request in requests:
        submit(request)
    dispatcher.wake()
    await asyncio.sleep(begun + window.end - time.monotonic())
    assert lane.waiting, "all requests are done: these figures are of rows that nobody has"
    lane.fail_all(ModelUnavailableError("over", 0.0))
    await dispatcher.close(10.0)
    assert not failures, failures
    return [each - begun for each in token_times], steps.figures()


def _ended(future: asyncio.Future[list[Generated]]) -> None:
    future.exception()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", default="fp32")
    parser.add_argument("--requests", type=Path, required=True, help="what workloads.write_requests wrote")
    parser.add_argument("--order", type=int, default=0)
    parser.add_argument("--rows", type=int, default=32, help="of each of the running batches")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--ramp-seconds", type=float, default=2.0, help="of these, that do not count")
    options = parser.parse_args()
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    hold_no_freed_memory()
    built = load(options.bundle, options.variant)
    assert built.manifest.task == bundle_pb2.TASK_GENERATE
    window = Window(options.ramp_seconds, options.seconds)
    requests = read_requests(options.requests, options.order)
    cpu = time.process_time()
    token_times, steps = uvloop.run(generate(built, requests, options.rows, window))
    cpu = time.process_time() - cpu
    tokens = sum(map(window.holds, token_times))
    figures = {
        "tokens_per_second": tokens / window.seconds,
        "cpu_seconds_per_1000_tokens": 1000 * cpu / len(token_times),
        **steps,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
