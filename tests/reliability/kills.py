"""Servers killed at random times: `python tests/reliability/kills.py --kills 100`.

Two replicas answer the clients of a service, who have the published service config; half of them balance, half of
them take the first address that answers. Again and again one replica is killed (SIGKILL), while it serves, while it
loads, while it tries its models or while it swaps one, and started again where it was. No call may fail or be answered
wrongly, the replica must be ready again as soon as after an end in order, and nothing of the dead may stay: no process,
no file, no shared memory, no socket in its way.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # run as a file, from anywhere

import grpc  # noqa: E402 - after the path is set
from reliability.cancels_calls import EMBEDDER, GENERATOR, Questions  # noqa: E402
from reliability.figures import Figure, report  # noqa: E402
from reliability.kills_callers import RECONNECT_MS, Callers  # noqa: E402
from reliability.kills_killer import MOMENTS, Killer, Result  # noqa: E402
from reliability.kills_replica import Replica, ended  # noqa: E402
from rich.progress import Progress  # noqa: E402

LINE = "kills"
# Kills after which the time without load is taken again: the machine's speed drifts.
_STAGE_KILLS = 5
# Beside another replica and its callers, who take the processors that a start has to itself without load.
_SLOWDOWN_AIM = 2.0
# To load and to warm up is all there is to do: after a kill as after an end in order, but for chance.
_AFTER_KILL_AIM = 1.1
_SLOWEST_AIM_SECONDS = 10.0
_GONE_AIM_SECONDS = 5.0


def write_models(folder: Path, embedder: Path, generator: Path) -> None:
    """A repository with an encoder, in two versions, and the pronounce model.

    Args:
        folder: Made here.
        embedder: The encoder's bundle.
        generator: A folder of versions.
    """
    for version in ("1", "2"):
        shutil.copytree(embedder, folder / EMBEDDER / version, copy_function=_linked)
    (folder / GENERATOR).symlink_to(generator.resolve())


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another file system
        shutil.copyfile(source, target)


async def kill_at_random(  # noqa: PLR0913 - each by its name
    folder: Path,
    embedder: Path,
    generator: Path,
    texts: dict[str, list[str]],
    *,
    kills: int,
    calls_per_second: float,
    reconnect_ms: tuple[int, int] = RECONNECT_MS,
    life_seconds: float = 1.5,
    baselines: int = 3,
    flags: Sequence[str] = (),
    seed: int = 0,
    advance: Callable[[int], object] = lambda _: None,
) -> Result:
    """Kill replicas so many times, under load.

    Args:
        folder: For all that the replicas have.
        embedder: The bundle of `EMBEDDER`.
        generator: Folder of versions of `GENERATOR`.
        texts: To ask for, of each model.
        kills: At the least.
        calls_per_second: Load on both replicas together.
        reconnect_ms: After which clients look for a replica again that was gone: at first, and at most.
        life_seconds: Longest life of a replica that clients have found again.
        baselines: Starts without load, to begin with; 0 takes no times but those after kills.
        flags: Of the servers.
        seed: Of what happens when.
        advance: Told how many kills there were.
    """
    result = Result()
    replicas = [Replica(folder / f"replica-{number}", tuple(flags)) for number in (1, 2)]
    for replica in replicas:
        write_models(replica.models, embedder, generator)
    killer = Killer(replicas, life_seconds, seed, result)
    async with ended(*replicas):
        await killer.start_all()
        await killer.measure(baselines)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{replicas[0].port}") as channel:
            questions = await Questions.asked_alone(channel, texts)
        target = "ipv4:" + ",".join(f"127.0.0.1:{replica.port}" for replica in replicas)
        moments = iter(MOMENTS * kills)
        while result.kills.total() < kills:
            before, loaded = result.unloaded_seconds[-1:], len(result.loaded_seconds)
            stage = min(kills, result.kills.total() + _STAGE_KILLS)
            async with Callers(target, questions, calls_per_second, reconnect_ms, seed) as callers:
                for replica in replicas:
                    await killer.found(replica)
                if baselines:
                    await killer.end_one()
                while result.kills.total() < stage:
                    await killer.kill_one(next(moments))
                    advance(result.kills.total())
            result.calls += callers.right
            result.problems += callers.problems
            result.slowest_seconds = max(result.slowest_seconds, callers.slowest_seconds)
            if before and len(result.loaded_seconds) > loaded:
                await killer.measure(1)
                unloaded = statistics.mean([*before, result.unloaded_seconds[-1]])
                result.slowdowns.append(statistics.median(result.loaded_seconds[loaded:]) / unloaded)
        for replica in replicas:
            if code := await replica.terminate():
                result.problems.append(f"{replica.folder.name} ended with {code}")
            result.litter += replica.litter()
            result.gone_seconds = max(result.gone_seconds, replica.gone_seconds)
            if replica.unix.exists():
                result.litter.append(str(replica.unix))
    return result


def figures(result: Result) -> list[Figure]:
    """What is reported."""
    unloaded, loaded = result.unloaded_seconds, result.loaded_seconds
    slowdown = statistics.median(result.slowdowns)
    orderly = statistics.median(result.orderly_seconds)
    after_kill = statistics.median(loaded) / orderly
    return [
        Figure("kills", result.kills.total()),
        *(Figure(f"of these, while {moment}", result.kills[moment]) for moment in MOMENTS),
        Figure("answers to clients, all golden", result.calls, "calls", "> 0", result.calls > 0),
        Figure("wrong or failed", len(result.problems), "calls", "0", not result.problems),
        Figure("the slowest call", result.slowest_seconds, "s", f"<= {_SLOWEST_AIM_SECONDS:g}",
               result.slowest_seconds <= _SLOWEST_AIM_SECONDS),
        Figure("processes that the dead had started, gone after, at most", result.gone_seconds, "s",
               f"<= {_GONE_AIM_SECONDS:g}", result.gone_seconds <= _GONE_AIM_SECONDS),
        Figure("processes, files, sockets and shared memory left", len(result.litter), "", "0", not result.litter),
        Figure("from start to ready, without load, median", statistics.median(unloaded), "s"),
        Figure("the same after an end in order, under load, median", orderly, "s"),
        Figure("the same after a kill, under load, median", statistics.median(loaded), "s"),
        Figure("the same, longest", max(loaded), "s"),
        Figure("after a kill to after an end in order, medians", after_kill, "times", f"<= {_AFTER_KILL_AIM:g}",
               after_kill <= _AFTER_KILL_AIM),
        Figure("under load to without, same minute, median", slowdown, "times", f"<= {_SLOWDOWN_AIM:g}",
               slowdown <= _SLOWDOWN_AIM),
        Figure("from ready until clients call it again, median", statistics.median(result.found_seconds), "s"),
    ]  # fmt: skip


def main() -> int:
    """Run and report; returns the exit code."""
    parser = argparse.ArgumentParser(description="Kill servers at random times.")
    parser.add_argument("--kills", type=int, default=100, help="how many")
    parser.add_argument("--calls-per-second", type=float, default=40.0, help="load on both replicas together")
    parser.add_argument("--embedder", type=Path, default=ROOT / "build/encoders/packed/minilm/1", help="its bundle")
    parser.add_argument("--generator", type=Path, default=ROOT / "models/pronounce", help="its folder of versions")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when")
    arguments = parser.parse_args()
    texts = {
        EMBEDDER: ["soup", "the soup of the day", "who wrote the first note on the engine, and when was that read?"],
        GENERATOR: ["headwaiter", "onomatopoeia", "soup", "a"],
    }
    with tempfile.TemporaryDirectory(prefix="headwaiter-kills-") as name, Progress() as progress:
        task = progress.add_task("kills", total=arguments.kills)
        result = asyncio.run(
            kill_at_random(
                Path(name),
                arguments.embedder,
                arguments.generator,
                texts,
                kills=arguments.kills,
                calls_per_second=arguments.calls_per_second,
                flags=("--lame-duck-seconds", "0", "--log-level", "warning"),
                seed=arguments.seed,
                advance=lambda done: progress.update(task, completed=done),
            )
        )
    for problem in (*result.problems[:20], *result.litter[:20]):
        print(problem, file=sys.stderr)  # noqa: T201 - a script
    conditions = (
        f"Two replicas of MiniLM and pronounce, {arguments.calls_per_second:g} calls a second of Embed, Generate and "
        "ModelInfer by the published service config, half of them balanced, half to the first address"
    )
    return report(LINE, conditions, figures(result))


if __name__ == "__main__":
    sys.exit(main())
