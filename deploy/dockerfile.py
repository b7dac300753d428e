"""Reads a Dockerfile: enough of the format to run this project's own, and an error for the rest."""

# For the scripts here; not a package.
# ruff: noqa: INP001

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class DockerfileError(Exception):
    """The Dockerfile uses something that is not understood here."""


@dataclass
class Stage:
    """One stage of a build.

    Attributes:
        name: Its name; "" for the last one.
        parent: The image or stage that it starts from.
        steps: `RUN`, `COPY` and `WORKDIR` with their texts, in order.
        environment: What `ENV` sets.
        user: User and group ids that `USER` names.
        entrypoint: The command.
        healthcheck: The command that tells whether it is well.
        ports: What `EXPOSE` names.
        stop_signal: What ends it, before it is killed.
    """

    name: str
    parent: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    user: tuple[int, int] | None = None
    entrypoint: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    stop_signal: str = "SIGTERM"


def parse(path: Path) -> list[Stage]:
    """Read the stages of a Dockerfile.

    Raises:
        DockerfileError: It holds an instruction that is not understood.
    """
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    stages: list[Stage] = []
    for instruction in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        verb, _, text = instruction.partition(" ")
        if verb == "FROM":
            parent, *alias = text.split()
            stages.append(Stage(name=alias[1] if alias else "", parent=parent))
        elif stages:
            _add(stages[-1], verb, text.strip())
        else:
            raise DockerfileError(f"{verb} before the first FROM")
    return stages


def _add(stage: Stage, verb: str, text: str) -> None:
    if verb in {"RUN", "COPY", "WORKDIR"}:
        stage.steps.append((verb, text))
    elif verb == "ENV":
        for word in shlex.split(text):
            name, _, value = word.partition("=")
            stage.environment[name] = value
    elif verb == "USER":
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if match is None:
            raise DockerfileError(f"USER {text}: not numeric, so an orchestrator cannot tell that it is not root")
        stage.user = (int(match[1]), int(match[2]))
    elif verb == "EXPOSE":
        stage.ports = [int(port) for port in text.split()]
    elif verb in {"ENTRYPOINT", "HEALTHCHECK", "STOPSIGNAL"}:
        _add_process(stage, verb, text)
    elif verb != "LABEL":
        raise DockerfileError(f"{verb} is not understood")


def _add_process(stage: Stage, verb: str, text: str) -> None:
    """What Docker does with the process of a container."""
    if verb == "ENTRYPOINT":
        stage.entrypoint = json.loads(text)
    elif verb == "HEALTHCHECK":
        stage.healthcheck = json.loads(text[text.index("CMD") + len("CMD") :])
    else:
        stage.stop_signal = text
