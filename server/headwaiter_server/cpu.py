"""How many processors this process may really use.

onnxruntime and most thread pools count the host's processors. In a container with a quota of two of a host's
ninety-six that starts ninety-six threads on two processors' worth of time.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def available_cpus(cgroup_root: Path = _CGROUP_ROOT, own_cgroup: Path = _OWN_CGROUP) -> int:
    """Whole processors this process may use: the affinity mask, lowered by the cgroup quota.

    Args:
        cgroup_root: Where the cgroup file system is mounted.
        own_cgroup: The file that names this process's cgroups.

    Returns:
        At least 1; a fraction of a processor counts as one.
    """
    affinity = len(os.sched_getaffinity(0))
    quota = _cgroup_quota_cpus(cgroup_root, own_cgroup)
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def _cgroup_quota_cpus(root: Path, own_cgroup: Path) -> float | None:
    """The tightest quota from this process's cgroup up to the root, in processors; None without one."""
    quotas = []
    for folder in _own_folders(root, own_cgroup):
        unified = _read_words(folder / "cpu.max")  # cgroup v2: "200000 100000" or "max 100000"
        legacy = [*_read_words(folder / "cpu.cfs_quota_us"), *_read_words(folder / "cpu.cfs_period_us")]
        quotas += [
            int(words[0]) / int(words[1])
            for words in (unified, legacy)
            if len(words) == 2 and words[0] not in {"max", "-1"}  # noqa: PLR2004 - a quota and its period
        ]
    return min(quotas, default=None)


def _own_folders(root: Path, own_cgroup: Path) -> list[Path]:
    # Inside a container the root is usually the container's own cgroup already; outside, the limit may sit on
    # any ancestor. Lines read "0::/user.slice/x" (v2) or "4:cpu,cpuacct:/x" (v1).
    folders = [root, root / "cpu"]
    try:
        lines = own_cgroup.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        base = root if not controllers else root / "cpu"
        if not controllers or "cpu" in controllers.split(","):
            relative = Path(path.lstrip("/"))
            folders += [base / part for part in (relative, *relative.parents)]
    return folders


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []
