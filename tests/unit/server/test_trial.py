"""Trials of models, in real processes: what a model does there, it does to nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import onnx
import psutil
import pytest
from headwaiter_server.config import ServerSettings
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle import trial
from headwaiter_server.lifecycle.building import digest_of
from headwaiter_server.lifecycle.memory import TRIAL_PROCESS_BYTES, resident_bytes
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.lifecycle.trial import Trials, open_trials
from headwaiter_server.lifecycle.trial_host import TrialHost
from headwaiter_server.lifecycle.trial_records import TrialMachine, TrialRecords

from .generator_bundles import MadeGenerator
from .graphs import packed_bytes
from .hostile_graphs import crashing, crashing_in_runs, hanging, hungry
from .test_load_encoder import Made

MACHINE = TrialMachine("a processor", "1.0", "2.0")
ROOM_BYTES = 1 << 30
# Many times what the small model takes to be built.
COMPUTED_SECONDS = 0.5


def written(folder: Path, change: Callable[[bytes], bytes] = bytes) -> BundleLocation:
    """A bundle whose graph was changed before its digests were taken."""
    made = Made(folder)
    made.graph = change(made.graph)
    made.write()
    return BundleLocation("small", 1, made.folder)


def trials(folders: list[Path], limit_seconds: float = 60, room_bytes: int = ROOM_BYTES) -> Trials:
    return Trials(
        limit_seconds=limit_seconds,
        threads=1,
        room_bytes=lambda: room_bytes,
        records=TrialRecords(folders, MACHINE),
    )


@contextlib.asynccontextmanager
async def running(*folders: Path, limit_seconds: float = 60, room_bytes: int = ROOM_BYTES) -> AsyncIterator[Trials]:
    """What tries models, until its process has ended."""
    tried = trials(list(folders), limit_seconds, room_bytes)
    try:
        yield tried
    finally:
        await tried.close()


async def refusal(tried: Trials, location: BundleLocation) -> str:
    with pytest.raises(BundleError) as caught:
        await tried.check(location, "fp32")
    assert str(location.folder) in str(caught.value)
    return str(caught.value).removeprefix(f"{location.folder}: ")


async def host_of(tried: Trials) -> psutil.Process:
    """The process in which models are tried, once there is one."""
    while tried._host is None:
        await asyncio.sleep(0.01)
    return psutil.Process(tried._host._process.pid)


async def child_of(host: psutil.Process) -> psutil.Process:
    """The process in which a model is tried at the moment."""
    while not (children := host.children()):
        await asyncio.sleep(0.01)
    return children[0]


async def hung(host: psutil.Process) -> psutil.Process:
    """The same, once it has computed for so long that it must be in the run that never ends."""
    child = await child_of(host)
    while child.cpu_times().user < COMPUTED_SECONDS:
        await asyncio.sleep(0.01)
    return child


async def gone(process: psutil.Process) -> None:
    """Wait until a process is no more."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        await asyncio.sleep(0.01)


async def test_sound_model_passes_and_is_named_by_its_digest(tmp_path: Path) -> None:
    """What is returned is the digest of exactly the files that were tried."""
    location = written(tmp_path)
    async with running() as tried:
        assert await tried.check(location, "fp32") == digest_of(location)


@pytest.mark.parametrize(
    ("change", "doing"),
    [(crashing, "onnxruntime was building its graph"), (crashing_in_runs, "it was answering its golden inputs")],
)
async def test_crash_is_told_with_its_signal_and_when(
    tmp_path: Path, change: Callable[[bytes], bytes], doing: str
) -> None:
    """A model that kills the process in which it is tried is refused, with how and when; others are tried after it."""
    async with running() as tried:
        message = await refusal(tried, written(tmp_path / "bad", change))
        assert message == f"the process in which it was tried crashed (Floating point exception) while {doing}"
        assert await tried.check(written(tmp_path / "good"), "fp32")


async def test_bare_onnx_file_is_tried_like_any_other(tmp_path: Path) -> None:
    """An ONNX file without a bundle around it is tried before it is loaded, too."""
    for name, graph in {"good": packed_bytes(), "bad": crashing(packed_bytes())}.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.onnx").write_bytes(graph)
    async with running() as tried:
        good = BundleLocation("good", 1, tmp_path / "good" / "1")
        assert await tried.check(good, "fp32") == digest_of(good)
        assert "crashed (Floating" in await refusal(tried, BundleLocation("bad", 1, tmp_path / "bad" / "1"))


async def test_model_that_generates_is_tried_with_its_longest_text(tmp_path: Path) -> None:
    """One whose longest text fits into what is left passes; one that says it is longer than that is refused."""
    good, long = MadeGenerator(tmp_path / "good"), MadeGenerator(tmp_path / "long")
    long.manifest.limits.max_total_tokens = 1 << 20  # 512 MiB
    for made in (good, long):
        made.write()
    async with running(room_bytes=256 << 20) as tried:
        assert await tried.check(good.location, "fp32") == digest_of(good.location)
        message = await refusal(tried, long.location)
        assert message == "it does not fit into the 256 MiB left for it"


async def test_hang_ends_with_the_time_limit(tmp_path: Path) -> None:
    """A model that does not come to an end is ended, and the setting named that would give it more time."""
    # Longer than it takes to come to the run that never ends, on any machine.
    async with running(limit_seconds=8) as tried:
        message = await refusal(tried, written(tmp_path, hanging))
    assert message == (
        "it was not ready within 8 s (--load-timeout-seconds allows more), and was ended while it was answering its "
        "golden inputs"
    )


async def test_hang_keeps_no_other_model_waiting(tmp_path: Path) -> None:
    """While one model hangs, another is tried."""
    bad, good = written(tmp_path / "bad", hanging), written(tmp_path / "good")
    async with running() as tried:
        hung = asyncio.create_task(tried.check(bad, "fp32"))
        assert await tried.check(good, "fp32")
        assert not hung.done()
        hung.cancel()


async def test_model_without_room_is_refused(tmp_path: Path) -> None:
    """A model that wants all memory gets what there is room for; the message says how much that was."""
    async with running() as tried:
        message = await refusal(tried, written(tmp_path, hungry))
    assert message == "it does not fit into the 1024 MiB left for it"


async def test_room_is_what_counts(tmp_path: Path) -> None:
    """A sound model is refused where there is no room for it."""
    async with running(room_bytes=1 << 20) as tried:
        assert "it does not fit into the 1 MiB" in await refusal(tried, written(tmp_path))


async def test_broken_bundle_is_refused_in_its_own_words(tmp_path: Path) -> None:
    """What a bundle is refused for is told as if it had been loaded."""
    location = written(tmp_path)
    (location.folder / "model.onnx").write_bytes(b"")
    async with running() as tried:
        assert "has 0 bytes, the manifest says" in await refusal(tried, location)
        assert (await host_of(tried)).is_running()


async def test_folder_without_manifest_is_refused_without_a_process(tmp_path: Path) -> None:
    """What is not even a bundle starts nothing."""
    async with running() as tried:
        assert "cannot be read" in await refusal(tried, BundleLocation("none", 1, tmp_path / "1"))
        problem = BundleLocation("none", 1, tmp_path, problem=f"{tmp_path} holds no version")
        assert "holds no version" in await refusal(tried, problem)
        assert tried._host is None


async def test_files_that_no_parser_foresaw_are_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reading the files raises before anything is tried, it is the model that is refused."""

    def broken(_location: BundleLocation) -> str:
        raise RecursionError("too deep")

    monkeypatch.setattr(trial, "digest_of", broken)
    async with running() as tried:
        assert "cannot be read: too deep" in await refusal(tried, BundleLocation("deep", 1, tmp_path / "1"))


async def test_passed_trial_is_not_made_again(tmp_path: Path) -> None:
    """Once passed, files of the same digest are let through: by the same object, and by the next start's."""
    location, kept = written(tmp_path / "model"), tmp_path / "kept"
    async with running(kept) as tried:
        digest = await tried.check(location, "fp32")
    (location.folder / "model.onnx").write_bytes(b"as nobody looks")
    assert await tried.check(location, "fp32") == digest
    async with running(kept) as again:
        assert await again.check(location, "fp32") == digest
        assert again._host is None


async def test_cancelled_trial_ends_its_process(tmp_path: Path) -> None:
    """When nobody waits for a trial any more, it ends."""
    location = written(tmp_path, hanging)
    async with running() as tried:
        task = asyncio.create_task(tried.check(location, "fp32"))
        child = await hung(await host_of(tried))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await gone(child)
        assert (await host_of(tried)).is_running()


async def test_processes_of_trials_hold_nothing_of_the_server(tmp_path: Path) -> None:
    """No socket or file of the server's is inherited, the session is another, and the child goes first for memory."""
    location = written(tmp_path, hanging)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        async with running() as tried:
            task = asyncio.create_task(tried.check(location, "fp32"))
            host = await host_of(tried)
            child = await hung(host)  # and reads no files any more
            assert child.nice() >= min(host.nice() + 1, 19)
            links = {each: descriptors(each) for each in (host, child)}
            assert links[child].keys() == {0, 1, 2, 3}
            of_server = descriptors(psutil.Process())
            others = {link for number, link in links[host].items() if number != 2 and link in of_server.values()}
            assert links[host].keys() >= {0, 1, 2}
            assert others <= {os.devnull}
            assert of_server[listener.fileno()] not in links[host].values()
            assert os.getsid(host.pid) != os.getsid(0)
            assert oom_score(child) == "1000"
            assert host.num_threads() == 1  # or else forking would not be sound
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def descriptors(process: psutil.Process) -> dict[int, str]:
    """Open files of a process."""
    folder = Path(f"/proc/{process.pid}/fd")
    return {int(each.name): str(each.readlink()) for each in folder.iterdir() if each.is_symlink()}


def oom_score(process: psutil.Process) -> str:
    return Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip()


async def test_closing_ends_what_is_tried(tmp_path: Path) -> None:
    """Closing leaves no process behind, and whoever waits is told."""
    location = written(tmp_path, hanging)
    tried = trials([])
    task = asyncio.create_task(tried.check(location, "fp32"))
    host = await host_of(tried)
    child = await hung(host)
    await tried.close()
    assert not host.is_running()
    assert not child.is_running()
    with pytest.raises(BundleError, match="has ended"):
        await task


async def test_process_of_trials_that_dies_is_replaced(tmp_path: Path) -> None:
    """If the process in which models are tried is killed, its trials are refused, and the next one starts another."""
    bad, good = written(tmp_path / "bad", hanging), written(tmp_path / "good")
    async with running() as tried:
        task = asyncio.create_task(tried.check(bad, "fp32"))
        host = await host_of(tried)
        child = await hung(host)
        host.kill()
        with pytest.raises(BundleError, match="has ended unexpectedly"):
            await task
        await gone(child)
        assert await tried.check(good, "fp32")


async def test_idle_process_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing was tried for a while, the process goes; it comes again when it is needed."""
    monkeypatch.setattr(trial, "_IDLE_SECONDS", 0.0)
    async with running() as tried:
        for name in ("one", "two"):
            location = written(tmp_path / name, lambda graph: with_name(graph, name))  # noqa: B023 - called at once
            task = asyncio.create_task(tried.check(location, "fp32"))
            host = await host_of(tried)
            assert await task
            await gone(host)


def with_name(graph: bytes, name: str) -> bytes:
    """The same graph with another digest."""
    model = onnx.load_from_string(graph)
    model.graph.name = name
    return model.SerializeToString()


async def test_server_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    """A server that ends without a word takes the process of its trials, and their children, with it."""
    location = written(tmp_path, hanging)
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from headwaiter_server.lifecycle.repository import BundleLocation\n"
        "from headwaiter_server.lifecycle.trial import Trials\n"
        "from headwaiter_server.lifecycle.trial_records import TrialMachine, TrialRecords\n"
        "records = TrialRecords([], TrialMachine('', '', ''))\n"
        "async def main():\n"
        "    tried = Trials(limit_seconds=600, threads=1, room_bytes=lambda: 1 << 30, records=records)\n"
        "    await tried.check(BundleLocation('small', 1, Path(sys.argv[1])), 'fp32')\n"
        "asyncio.run(main())\n"
    )
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(location.folder))
    (host,) = [await child_of(psutil.Process(server.pid))]
    child = await hung(host)
    server.send_signal(signal.SIGKILL)
    await server.wait()
    await gone(host)
    await gone(child)


# What a model's library might do to the process that tries it, in a child that does just that.
MISBEHAVIOUR = {
    "garbage on every descriptor": (
        "os.write(1, b'{]'); os.write(3, b'garbage\\n{\"tried\": 3}\\n\\xff\\n[]\\n'); os._exit(0)",
        "the process in which it was tried ended while its process started: {]",
    ),
    "abort": (
        "os.write(2, b'terminate called\\n'); os.abort()",
        "the process in which it was tried crashed (Aborted) while its process started: terminate called",
    ),
    "out of memory in another language": (
        "os.write(2, b'memory allocation of 99 bytes failed\\n'); os.abort()",
        "it does not fit into the 1024 MiB left for it",
    ),
    "exit": ("raise SystemExit(3)", "the process in which it was tried ended while its process started"),
    "killed": (
        "os.kill(os.getpid(), 9)",
        "the process in which it was tried was killed, most likely for want of memory, while its process started",
    ),
    "silence": (
        "os.close(3); time.sleep(600)",
        "the process in which it was tried was killed, most likely for want of memory, while its process started",
    ),
    "too many files": (
        "[os.dup(0) for _ in range(1000)]",
        "the process in which it was tried ended while its process started",
    ),
    "writes for ever": (
        "[os.write(1, b'x' * 4096) for _ in range(10_000)]",
        f"the process in which it was tried ended while its process started: {'x' * 300}",
    ),
    "processor time": (
        "resource.setrlimit(resource.RLIMIT_CPU, (1, 2)); [0 for _ in iter(int, 1)]",
        "it took more processor time than is allowed, and was ended while its process started",
    ),
}


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of trials whose children, instead of trying a model, do what its name says."""
    code = (
        "import os, resource, signal, sys, time\n"
        "from headwaiter_server.lifecycle import trial_child\n"
        "trial_child.try_model = lambda request, step: exec(request['name'])\n"
        "trial_child.main()\n"
    )
    start = TrialHost.start
    monkeypatch.setattr(TrialHost, "start", lambda: start((sys.executable, "-c", code)))


@pytest.mark.usefixtures("misbehaving")
async def test_whatever_a_child_does_is_a_refusal(tmp_path: Path) -> None:
    """A library gone astray may print, exit, or fall silent: the model is refused, and the process goes on."""
    folder = written(tmp_path).folder
    async with running() as tried:
        messages = await asyncio.gather(
            *(refusal(tried, BundleLocation(statement, 1, folder)) for statement, _ in MISBEHAVIOUR.values())
        )
    assert dict(zip(MISBEHAVIOUR, messages, strict=True)) == {
        what: message for what, (_, message) in MISBEHAVIOUR.items()
    }


@pytest.mark.usefixtures("misbehaving")
async def test_child_that_minds_no_signal_is_ended_all_the_same(tmp_path: Path) -> None:
    """The time limit is not a matter of good will."""
    statement = "import signal; [signal.signal(each, signal.SIG_IGN) for each in (2, 15, 24)]; time.sleep(600)"
    async with running(limit_seconds=1) as tried:
        message = await refusal(tried, BundleLocation(statement, 1, written(tmp_path).folder))
    assert message.startswith("it was not ready within 1 s (--load-timeout-seconds allows more), and was ended")


async def test_process_that_never_starts_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process of trials can be had, models are refused, and nobody waits for ever."""
    start = TrialHost.start
    monkeypatch.setattr(TrialHost, "start", lambda: start(("/nowhere/python",)))
    location = written(tmp_path)
    async with running() as tried:
        assert "no process can be started" in await refusal(tried, location)
    monkeypatch.setattr(TrialHost, "start", lambda: start((sys.executable, "-c", "raise SystemExit(3)")))
    async with running() as tried:
        assert "has ended unexpectedly" in await refusal(tried, location)
    monkeypatch.setattr(trial, "_BACKSTOP_SECONDS", 0.0)
    monkeypatch.setattr(TrialHost, "start", lambda: start((sys.executable, "-c", "import time; time.sleep(600)")))
    async with running(limit_seconds=0.1) as tried:
        assert "did not answer" in await refusal(tried, location)


@pytest.mark.parametrize("said", ["hello", "[]", "{}"])
async def test_process_that_says_what_is_no_answer_is_replaced(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a library may that prints; its trials are refused, the next ones get another, and closing ends it in order."""
    start, location = TrialHost.start, written(tmp_path)
    command = (sys.executable, "-c", f"import sys; print({said!r}, flush=True); sys.stdin.read()")
    async with running() as tried:
        with monkeypatch.context() as patch:
            patch.setattr(TrialHost, "start", lambda: start(command))
            assert "has ended unexpectedly" in await refusal(tried, location)
        assert await tried.check(location, "fp32")


async def test_start_that_is_cancelled_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even before anybody knows of it."""

    async def cancelled(**_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "open_unix_connection", cancelled)
    before = set(psutil.Process().children())
    with pytest.raises(asyncio.CancelledError):
        await TrialHost.start()
    assert set(psutil.Process().children()) == before


async def test_trials_that_are_off_try_nothing(tmp_path: Path) -> None:
    """With --trial-loads off any model is let through to the load itself, which then compares with nothing."""
    tried = open_trials(ServerSettings(models=tmp_path, trial_loads="off"), "1.0")
    assert await tried.check(BundleLocation("none", 1, tmp_path / "1"), "fp32") == ""
    await tried.close()


async def test_trial_leaves_room_for_its_own_process(tmp_path: Path) -> None:
    """A container counts the process of the trials in: what would fit only without it is refused, and nobody killed."""
    limit = resident_bytes() + TRIAL_PROCESS_BYTES // 2
    settings = ServerSettings(models=tmp_path, calibration_cache=tmp_path, memory_limit_bytes=limit)
    tried = open_trials(settings, "1.0")
    try:
        with pytest.raises(BundleError, match="it does not fit into the 0 MiB left for it"):
            await tried.check(written(tmp_path / "models" / "small"), "fp32")
    finally:
        await tried.close()


@pytest.mark.parametrize("chosen", [True, False], ids=["folder of calibrations given", "not given"])
async def test_trials_are_remembered_in_a_folder_of_the_servers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, chosen: bool
) -> None:
    """What has passed is kept where settings say or in the user's cache, never where a bundle could bring it along."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    models, given = tmp_path / "models", tmp_path / "given"
    settings = ServerSettings(models=models, calibration_cache=given) if chosen else ServerSettings(models=models)
    location = written(models / "small")
    tried = open_trials(settings, "1.0")
    try:
        assert await tried.check(location, "fp32")
    finally:
        await tried.close()
    assert kept_in(tmp_path) == [given if chosen else tmp_path / "cache" / "headwaiter"]


def kept_in(folder: Path) -> list[Path]:
    """Folders in which trials are remembered."""
    return [record.parent for record in folder.rglob("trial-*.json")]
