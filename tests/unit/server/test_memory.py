"""Memory: what the container allows, what this process holds, and whether models fit."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.memory import (
    TRIAL_PROCESS_BYTES,
    MemoryPlan,
    container_limit_bytes,
    resident_bytes,
    room_bytes,
)

GIB = 1 << 30
# What cgroup v1 says where there is no limit.
UNLIMITED = 9223372036854771712


@pytest.fixture(autouse=True)
def machine_of_64_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of the whole machine."""
    sizes = {"SC_PHYS_PAGES": 64 * GIB // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)


def cgroup(tmp_path: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A cgroup tree of files by their path, and the file that names the process's own groups."""
    root = tmp_path / "cgroup"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    groups = tmp_path / "self"
    groups.write_text(own, encoding="ascii")
    return root, groups


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/\n", {"memory.max": f"{2 * GIB}\n"}, 2 * GIB),
        ("0::/a/b\n", {"a/memory.max": f"{3 * GIB}\n", "a/b/memory.max": "max\n"}, 3 * GIB),
        ("0::/a\n", {"b/memory.max": f"{GIB}\n"}, None),
        ("4:memory:/x\n3:cpu:/y\n", {"memory/x/memory.limit_in_bytes": f"{GIB}\n"}, GIB),
        ("4:memory:/x\n3:cpu:/y\n", {"memory/y/memory.limit_in_bytes": f"{GIB}\n"}, None),
        ("4:memory:/x\n", {"memory/x/memory.limit_in_bytes": f"{UNLIMITED}\n"}, None),
        ("0::/\n", {"memory.max": f"{100 * GIB}\n"}, None),
        ("0::/\n", {}, None),
    ],
)
def test_limit_of_the_container(own: str, files: dict[str, str], limit: int | None, tmp_path: Path) -> None:
    """The tightest limit from the own group up to the root, in both hierarchies; none beyond the machine's memory."""
    assert container_limit_bytes(*cgroup(tmp_path, own, files)) == limit


def test_resident_bytes_are_known_where_no_file_can_be_opened(tmp_path: Path) -> None:
    """Where connections have taken every descriptor, memory is looked at more than ever."""
    assert resident_bytes() > 0
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            tmp_path.open()
        assert resident_bytes() > 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_resident_bytes_grow_with_what_is_held() -> None:
    """Memory that is written to is counted."""
    # In a process of its own: this one may give back what earlier tests held at the same moment.
    code = """
import numpy as np
from headwaiter_server.lifecycle.memory import resident_bytes
before = resident_bytes()
held = np.ones(64 << 20, np.uint8)
print(resident_bytes() - before)
"""
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 48 << 20 < int(grown) < 80 << 20


def test_models_are_counted_together(capsys: pytest.CaptureFixture[str]) -> None:
    """What was taken already is not counted twice, what will be taken is counted for every model that is loaded."""
    resident = 2 * GIB
    plan = MemoryPlan(10 * GIB, lambda: resident)
    plan.add("measured", run_bytes=3 * GIB, taken_bytes=3 * GIB)
    plan.add("remembered", run_bytes=3 * GIB, taken_bytes=0)
    assert "memory_nearly_full" not in capsys.readouterr().out
    resident = 4 * GIB
    plan.add("grown", run_bytes=3 * GIB, taken_bytes=2 * GIB)
    assert "memory_planned" in capsys.readouterr().out
    plan.add("small", run_bytes=GIB, taken_bytes=0)
    assert "memory_nearly_full" in capsys.readouterr().out
    with pytest.raises(BundleError, match=r"take 2048 MiB, which makes 11264 MiB .* the limit is 10240 MiB"):
        plan.add("large", run_bytes=2 * GIB, taken_bytes=0)


def test_what_can_be_done_without_leaves_room_for_the_rest() -> None:
    """Beside what is held go all that is expected and the process in which models are tried."""
    plan = MemoryPlan(10 * GIB, lambda: 2 * GIB)
    plan.add("m", run_bytes=3 * GIB, taken_bytes=GIB)
    left = 6 * GIB - TRIAL_PROCESS_BYTES
    assert plan.has_room(left)
    assert not plan.has_room(left + 1)
    assert MemoryPlan(None, lambda: GIB).has_room(1 << 50)


def test_without_a_limit_everything_fits() -> None:
    """Where nothing bounds the process but the machine, nothing is refused."""
    MemoryPlan(None, lambda: GIB).add("m", run_bytes=1 << 50, taken_bytes=0)


def test_room_is_what_the_limit_and_the_machine_leave(tmp_path: Path) -> None:
    """What may be taken now is bounded by the limit, less what this process holds, and by the memory of the machine."""
    machine = tmp_path / "meminfo"
    machine.write_text(f"MemTotal: {64 * GIB >> 10} kB\nMemAvailable:   {8 * GIB >> 10} kB\n")
    assert room_bytes(None, machine) == 8 * GIB
    assert room_bytes(512 * GIB, machine) == 8 * GIB
    assert 0 < room_bytes(resident_bytes() + (1 << 30), machine) <= 2 << 30
    assert room_bytes(1, machine) == 0
    # A kernel that does not say: the machine's.
    assert room_bytes(None, tmp_path / "nothing") == 64 * GIB
