"""Memory under random shapes: `python benchmarks/encoders/soak.py --models REPOSITORY --seconds 3600`.

One server, and a few callers who send calls of any number of texts of any length, seeded, with pauses between them, so
that the machine has room for other work: what counts is how many different runs there were, not how fast they came. The
resident size is sampled throughout. It is flat if the median of the last tenth is within 3 % of that of the second
quarter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

import grpc  # noqa: E402 - after the path is set
from headwaiter_proto.v1 import inference_pb2  # noqa: E402
from rich.progress import Progress, TaskID  # noqa: E402

from benchmarks.encoders.load import EMBED  # noqa: E402
from benchmarks.servers import MeasuredServer, measured_server  # noqa: E402

_CALLERS = 4
_MOST_TEXTS = 64
# Words of one token each, so that a length in words is one in tokens, but for the two special ones.
_WORDS = ("the", "time", "of", "day", "when", "people", "come", "home", "from", "work")
_MOST_WORDS = 250
_SAMPLES = 400


def random_request(rng: random.Random) -> bytes:
    """A call of 1 to 64 texts of 1 to 250 words; small ones as often as large ones."""
    texts = round(math.exp(rng.uniform(0, math.log(_MOST_TEXTS))))
    lengths = [round(math.exp(rng.uniform(0, math.log(_MOST_WORDS)))) for _ in range(texts)]
    words = [" ".join(rng.choices(_WORDS, k=length)) for length in lengths]
    return inference_pb2.EmbedRequest(texts=words).SerializeToString()


async def send(target: str, until: float, pause_seconds: float, seed: int) -> int:
    """Call one after the other until a time; how many."""
    rng = random.Random(seed)
    calls = 0
    async with grpc.aio.insecure_channel(target) as channel:
        embed: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(EMBED)
        while time.monotonic() < until:
            await embed(random_request(rng), wait_for_ready=True)
            calls += 1
            await asyncio.sleep(rng.uniform(0, 2 * pause_seconds))
    return calls


async def soak(
    server: MeasuredServer, seconds: float, pause_seconds: float, progress: Progress, task: TaskID
) -> tuple[int, list[int]]:
    """Load a server; the calls it answered and its resident sizes."""
    started = time.monotonic()
    senders = [
        asyncio.create_task(send(server.target, started + seconds, pause_seconds, seed)) for seed in range(_CALLERS)
    ]
    sizes = []
    while (elapsed := time.monotonic() - started) < seconds:
        await asyncio.sleep(seconds / _SAMPLES)
        sizes.append(server.resident_bytes())
        progress.update(task, completed=elapsed)
    return sum(await asyncio.gather(*senders)), sizes


def growth(sizes: Sequence[int]) -> tuple[float, float]:
    """Medians of the second quarter and of the last tenth, in MiB."""
    quarter, tenth = len(sizes) // 4, max(1, len(sizes) // 10)
    return statistics.median(sizes[quarter : 2 * quarter]) / 2**20, statistics.median(sizes[-tenth:]) / 2**20


def main() -> None:
    """Soak a server and print what it held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "encoders" / "packed")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--pause-seconds", type=float, default=1.5, help="mean pause of a caller between two calls")
    parser.add_argument("--json", type=Path, help="write the resident sizes here")
    options = parser.parse_args()
    with Progress() as progress, measured_server(options.models) as server:
        task = progress.add_task("random shapes", total=options.seconds)
        calls, sizes = asyncio.run(soak(server, options.seconds, options.pause_seconds, progress, task))
    early, late = growth(sizes)
    print(f"{calls} calls; resident {early:.1f} MiB in the second quarter, {late:.1f} MiB in the last tenth,")
    print(f"{100 * (late / early - 1):+.2f} %; smallest {min(sizes) / 2**20:.1f}, largest {max(sizes) / 2**20:.1f}")
    if options.json:
        options.json.write_text(json.dumps({"calls": calls, "resident_bytes": sizes}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
