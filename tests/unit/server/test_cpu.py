"""Processors: what the affinity mask and the cgroup quota leave of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from headwaiter_server.cpu import available_cpus, describe_cpus, describe_processor


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The affinity mask of a process that may run on eight."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def cgroup(tmp_path: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A cgroup tree of files by their path, and the file that names the process's own groups."""
    root = tmp_path / "cgroup"
    root.mkdir()
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    groups = tmp_path / "self"
    groups.write_text(own, encoding="ascii")
    return root, groups


def test_quota_of_the_unified_hierarchy(tmp_path: Path) -> None:
    """In cgroup v2, two processors' worth of time in each period are two processors."""
    assert available_cpus(*cgroup(tmp_path, "0::/\n", {"cpu.max": "200000 100000\n"})) == 2


def test_quota_of_the_legacy_hierarchy(tmp_path: Path) -> None:
    """In cgroup v1, quota and period stand in two files, in the cpu controller's folder."""
    files = {"cpu/docker/x/cpu.cfs_quota_us": "300000\n", "cpu/docker/x/cpu.cfs_period_us": "100000\n"}
    own = "11:memory:/docker/y\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n"
    assert available_cpus(*cgroup(tmp_path, own, files)) == 3


def test_group_of_another_controller_does_not_count(tmp_path: Path) -> None:
    """In cgroup v1, a folder that only another controller puts this process into is not read."""
    files = {"cpu/docker/y/cpu.cfs_quota_us": "300000\n", "cpu/docker/y/cpu.cfs_period_us": "100000\n"}
    assert available_cpus(*cgroup(tmp_path, "11:memory,cpuset:/docker/y\n", files)) == 8


def test_own_group_without_the_mount_of_its_path(tmp_path: Path) -> None:
    """In a container the mounted root is the container's own group, whatever path the host calls it by."""
    own = "0::/kubepods/burstable/pod1/abc\n"
    assert available_cpus(*cgroup(tmp_path, own, {"cpu.max": "400000 100000\n"})) == 4
    own_groups = tmp_path / "self"
    own_groups.unlink()
    assert available_cpus(tmp_path / "cgroup", own_groups) == 4


@pytest.mark.parametrize(("outer", "inner"), [("200000 100000", "500000 100000"), ("500000 100000", "200000 100000")])
def test_tightest_of_nested_limits_counts(tmp_path: Path, outer: str, inner: str) -> None:
    """A limit on an ancestor binds as one on the group itself does."""
    own = "0::/system.slice/headwaiter.service\n"
    files = {"system.slice/cpu.max": outer, "system.slice/headwaiter.service/cpu.max": inner}
    assert available_cpus(*cgroup(tmp_path, own, files)) == 2


def test_group_with_any_name_is_read(tmp_path: Path) -> None:
    """A group's name is bytes to the kernel: whatever they are, the server starts and finds the limit."""
    root, groups = cgroup(tmp_path, "", {"fl\u00fcgel/cpu.max": "200000 100000"})
    groups.write_text("0::/fl\u00fcgel\n", encoding="utf-8")
    assert available_cpus(root, groups) == 2


def test_group_beside_the_own_one_does_not_count(tmp_path: Path) -> None:
    """A neighbour's limit binds nobody else."""
    assert available_cpus(*cgroup(tmp_path, "0::/a\n", {"b/cpu.max": "100000 100000"})) == 8


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cpu.max": "max 100000\n"},
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
    ],
)
def test_without_a_limit_the_affinity_mask_decides(tmp_path: Path, files: dict[str, str]) -> None:
    """No cgroup files, "max", and a quota of -1 all mean: no limit."""
    assert available_cpus(*cgroup(tmp_path, "0::/\n", files)) == 8


@pytest.mark.parametrize(("quota", "expected"), [("50000", 1), ("100000", 1), ("100001", 2), ("250000", 3)])
def test_part_of_a_processor_counts_as_one(tmp_path: Path, quota: str, expected: int) -> None:
    """A quota of two and a half processors keeps three threads busy."""
    assert available_cpus(*cgroup(tmp_path, "0::/\n", {"cpu.max": f"{quota} 100000"})) == expected


def test_affinity_mask_bounds_a_larger_quota(tmp_path: Path) -> None:
    """Where fewer processors may be used than the quota pays for, they are the limit."""
    assert available_cpus(*cgroup(tmp_path, "0::/\n", {"cpu.max": "3200000 100000"})) == 8


def test_this_machine_gives_at_least_one() -> None:
    """The real files of this machine can be read."""
    assert 1 <= available_cpus() <= 8


def test_processors_in_words(tmp_path: Path) -> None:
    """Kind, number and quota of the processors: what was measured on others does not hold."""
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Fast 9000\nflags\t: x\n", encoding="ascii")
    root, own = cgroup(tmp_path, "0::/\n", {"cpu.max": "250000 100000\n"})
    assert describe_cpus(info, root, own) == "8 of Fast 9000, quota 2.5"
    (root / "cpu.max").write_text("max 100000\n", encoding="ascii")
    assert describe_cpus(info, root, own) == "8 of Fast 9000"
    # Some architectures' kernels name no model.
    assert describe_cpus(tmp_path / "missing", root, own).startswith("8 of ")


def test_processors_of_one_name_that_multiply_differently(tmp_path: Path) -> None:
    """Virtual machines give generations of processors one name: their instructions tell them apart."""

    def described(info: str) -> str:
        (tmp_path / "cpuinfo").write_text(info, encoding="ascii")
        return describe_processor(tmp_path / "cpuinfo")

    older = described("processor\t: 0\nmodel name\t: Fast 9000\nflags\t\t: fpu avx avx2 erms\n")
    newer = described("processor\t: 0\nmodel name\t: Fast 9000\nflags\t\t: fpu avx avx2 avx512f avx512_vnni\n")
    assert older == "Fast 9000 (avx, avx2)"
    assert newer == "Fast 9000 (avx, avx2, avx512f, avx512_vnni)"
    # Arm's kernel names neither the model nor flags.
    assert described("processor\t: 0\nFeatures\t: fp asimd asimddp sve\n").endswith(" (asimddp, sve)")
