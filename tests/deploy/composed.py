"""The services of the compose file, as something that reads compose files understands them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
COMPOSE = ROOT / "docker-compose.yml"
PASSWORD_VARIABLE = "GRAFANA_ADMIN_PASSWORD"  # noqa: S105 - the name of one

# podman-compose reads the file without any engine, but not before it has asked one for its version.
_ENGINE = '#!/bin/sh\n[ "$1" = --version ] || exit 1\necho podman version 5.4.0\n'


@dataclass(frozen=True)
class Service:
    """One service.

    Attributes:
        name: Its name.
        fields: What the file says of it, with variables filled in.
    """

    name: str
    fields: dict[str, Any]

    @property
    def command(self) -> list[str]:
        """What stands behind the image's entry point."""
        return [str(word) for word in self.fields.get("command", [])]

    @property
    def healthcheck(self) -> list[str]:
        """The command that tells whether it is well."""
        kind, *command = (str(word) for word in self.fields["healthcheck"]["test"])
        assert kind == "CMD", "a shell would be needed in the image"
        return command

    @property
    def environment(self) -> dict[str, str]:
        """Its variables beside those of the image."""
        return {name: str(value) for name, value in self.fields.get("environment", {}).items()}

    def outside(self, path: str) -> Path:
        """Where something that the container sees lies in the checkout.

        Raises:
            LookupError: Nothing of the checkout is mounted there.
        """
        inside = PurePosixPath(path)
        for mount in self.fields["volumes"]:
            if mount["type"] == "bind" and inside.is_relative_to(mount["target"]):
                return ROOT / str(mount["source"]) / inside.relative_to(mount["target"])
        raise LookupError(f"{self.name}: nothing of the checkout is mounted at {path}")


def read(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Let podman-compose read the file, every profile of it.

    Args:
        folder: For what is needed on the way.
        variables: The environment beside PATH; what stands in `.env` does not count.
    """
    engine, nothing = folder / "podman", folder / "no.env"
    engine.write_text(_ENGINE)
    engine.chmod(0o755)
    nothing.touch()
    command = [str(BIN / "podman-compose"), "--podman-path", str(engine)]
    command += ["--env-file", str(nothing), "--file", str(COMPOSE), "--profile", "load", "config"]
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)


def services(folder: Path) -> dict[str, Service]:
    """Every service, by name."""
    done = read(folder, **{PASSWORD_VARIABLE: "of a test"})
    assert done.returncode == 0, done.stderr
    loaded = yaml.safe_load(done.stdout)
    return {name: Service(name, fields) for name, fields in loaded["services"].items()}


def rewritten(words: list[str], changes: dict[str, str]) -> list[str]:
    """A command line with some values changed: whole words, or what stands behind a word's last "=".

    Each must be there, so that what is run is what the file says in every other respect.
    """
    left = dict(changes)

    def change(word: str) -> str:
        name, equals, value = word.rpartition("=")
        if word in left:
            return left.pop(word)
        return f"{name}={left.pop(value)}" if equals and value in left else word

    changed = [change(word) for word in words]
    assert not left, f"{sorted(left)} not found in {words}"
    return changed


def path_only() -> dict[str, str]:
    """An environment as empty as a container's."""
    return {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def checked(service: Service, changes: dict[str, str]) -> bool:
    """Whether a service's health check passes, run with the tools that its image has."""
    command = rewritten(service.healthcheck, changes)
    # The images' wget is busybox's.
    command = ["busybox", *command] if command[0] == "wget" else [str(BIN / command[0]), *command[1:]]
    return subprocess.run(command, env=path_only(), capture_output=True, check=False, timeout=30).returncode == 0
