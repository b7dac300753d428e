"""How many processors this process may really use, and which limits its cgroups set.

onnxruntime and most thread pools count the host's processors. In a container with a quota of two of a host's
ninety-six that starts ninety-six threads on two processors' worth of time.
"""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
_CPU_INFO = Path("/proc/cpuinfo")

# Under which the kernel lists what a processor can do: x86's name, and Arm's.
_CAPABILITIES = ("flags", "Features")
# By these onnxruntime chooses how it multiplies matrices, as the kernel writes them.
_FOR_PRODUCTS = (
    "avx", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
)  # fmt: skip


def available_cpus(cgroup_root: Path = CGROUP_ROOT, own_cgroup: Path = OWN_CGROUP) -> int:
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


def describe_cpus(cpu_info: Path = _CPU_INFO, cgroup_root: Path = CGROUP_ROOT, own_cgroup: Path = OWN_CGROUP) -> str:
    """The processors in words: equal words mean that what was measured on them holds.

    Args:
        cpu_info: The kernel's description of the processors.
        cgroup_root: Where the cgroup file system is mounted.
        own_cgroup: The file that names this process's cgroups.
    """
    quota = _cgroup_quota_cpus(cgroup_root, own_cgroup)
    processors = f"{len(os.sched_getaffinity(0))} of {describe_processor(cpu_info)}"
    return processors + ("" if quota is None else f", quota {quota:g}")


def describe_processor(cpu_info: Path = _CPU_INFO) -> str:
    """The kind of the processors in words: its name, and what it has for products of matrices.

    Virtual machines may have the same name for processors of several generations, which run a model in quite different
    times and, in int8, to different answers.

    Args:
        cpu_info: The kernel's description of the processors.
    """
    first: dict[str, str] = {}
    for line in read_text(cpu_info).splitlines():
        name, _, value = line.partition(":")
        first.setdefault(name.strip(), value.strip())
    can = {word for key in _CAPABILITIES for word in first.get(key, "").split()}
    having = [each for each in _FOR_PRODUCTS if each in can]
    model = first.get("model name") or platform.machine()
    return f"{model} ({', '.join(having)})" if having else model


def own_cgroups(controller: str, root: Path = CGROUP_ROOT, own_cgroup: Path = OWN_CGROUP) -> list[Path]:
    """Folders of the cgroups that limit this process: its own and its ancestors.

    Args:
        controller: Of cgroup v1, whose controllers have a tree each; v2 has one for all.
        root: Where the cgroup file system is mounted.
        own_cgroup: The file that names this process's cgroups.
    """
    # Inside a container the root is usually the container's own cgroup already; outside, the limit may sit on
    # any ancestor. Lines read "0::/user.slice/x" (v2) or "4:cpu,cpuacct:/x" (v1).
    folders = [root, root / controller]
    for line in read_text(own_cgroup).splitlines():
        _, controllers, path = line.split(":", 2)
        base = root if not controllers else root / controller
        if not controllers or controller in controllers.split(","):
            relative = Path(path.lstrip("/"))
            folders += [base / part for part in (relative, *relative.parents)]
    return folders


def read_text(path: Path) -> str:
    """The text of a file of the kernel's; nothing where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _cgroup_quota_cpus(root: Path, own_cgroup: Path) -> float | None:
    """The tightest quota from this process's cgroup up to the root, in processors; None without one."""
    quotas = []
    for folder in own_cgroups("cpu", root, own_cgroup):
        unified = read_text(folder / "cpu.max").split()  # cgroup v2: "200000 100000" or "max 100000"
        legacy = [*read_text(folder / "cpu.cfs_quota_us").split(), *read_text(folder / "cpu.cfs_period_us").split()]
        quotas += [
            int(words[0]) / int(words[1])
            for words in (unified, legacy)
            if len(words) == 2 and words[0] not in {"max", "-1"}  # noqa: PLR2004 - a quota and its period
        ]
    return min(quotas, default=None)
