"""Proves server/Dockerfile without a container engine.

Every step of the Dockerfile is run, as it is written there, in a sandbox that stands for its stage. Then the
final stage is started as a hardened container would be: a user that is not root, no capabilities, a read-only
root, `/tmp` in memory, no network but loopback. There `import torch` must fail; the server must start, pass
its health check, answer a call, change to another version of its model and back, drain and exit with 0. The load
tester's stage must say what it can do.

    python -m deploy.prove_image --models models
"""

# Scripts, which print; not a package.
# ruff: noqa: INP001, T201

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deploy.dockerfile import DockerfileError, Stage, parse
from deploy.sandbox import Sandbox, interpreter_path

ROOT = Path(__file__).resolve().parent.parent
# Where the stages of the Dockerfile may write.
PREFIXES = (Path("/build"), Path("/opt/headwaiter"))
VENV = PREFIXES[1]
PROBE = Path("/probe.py")
SHIMS = Path("/shims")
# The stage of the load tester; the server's is the last one, and has no name.
LOAD = "load"


def main() -> int:
    """Build and prove; returns the exit code."""
    parser = argparse.ArgumentParser(description="Run the Dockerfile's steps in a sandbox and start what they made.")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder of exported models")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("prove_image: needs root, to become another user without capabilities", file=sys.stderr)
        return 1
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headwaiter-image-") as folder:
        stages = parse(ROOT / "server" / "Dockerfile")
        trees = Builder(Path(folder)).build(stages)
        print(f"prove_image: installed in {time.monotonic() - started:.0f} s", flush=True)
        code = start(stages[-1], trees[""], arguments.models.resolve(), Path(folder))
        code = code or ask_load_tester(next(stage for stage in stages if stage.name == LOAD), trees[LOAD], Path(folder))
    print(f"prove_image: {'ok' if code == 0 else 'FAILED'} in {time.monotonic() - started:.0f} s")
    return code


class Builder:
    """Runs the steps of stages, each in a tree of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._trees: dict[str, Path] = {}
        self._workdirs: dict[str, Path] = {}
        shims = folder / "shims"
        shims.mkdir()
        # Seen inside at another path, so that nothing that is installed can refer to this machine.
        self._path = interpreter_path(shims).replace(str(shims), str(SHIMS))
        self._readable = {SHIMS: shims}
        # Package sources that pip is configured with, where they are folders.
        for name in os.environ.get("PIP_FIND_LINKS", "").split():
            if Path(name).is_dir():
                self._readable[Path(name)] = Path(name)

    def build(self, stages: list[Stage]) -> dict[str, Path]:
        """Run every stage; returns their trees by name."""
        for number, stage in enumerate(stages):
            tree = self._folder / f"stage-{number}"
            for prefix in PREFIXES:
                _at(tree, prefix).mkdir(parents=True)
            if stage.parent in self._trees:
                shutil.copytree(self._trees[stage.parent], tree, symlinks=True, dirs_exist_ok=True)
            self._trees[stage.name] = tree
            self._run(stage, tree)
        return self._trees

    def _run(self, stage: Stage, tree: Path) -> None:
        workdir = self._workdirs.get(stage.parent, Path("/"))
        for verb, text in stage.steps:
            print(f"prove_image: {verb} {text}", flush=True)
            if verb == "WORKDIR":
                workdir = Path(text)
            elif verb == "COPY":
                self._copy(text, tree, workdir)
            else:
                environment = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
                environment |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
                environment |= {"PIP_QUIET": "1", "PATH": self._path, "HOME": "/tmp"}  # noqa: S108
                box = Sandbox(
                    writable={prefix: _at(tree, prefix) for prefix in PREFIXES},
                    readable=self._readable,
                    environment=environment | stage.environment,
                    workdir=str(workdir),
                    network=True,
                )
                subprocess.run(box.command(["/bin/sh", "-c", text]), check=True)  # noqa: S603
        self._workdirs[stage.name] = workdir

    def _copy(self, text: str, tree: Path, workdir: Path) -> None:
        """Copy as Docker does: a folder's content, or files into a folder that ends in a slash."""
        words = text.split()
        source_tree = ROOT
        if words[0].startswith("--from="):
            source_tree = self._trees[words.pop(0).removeprefix("--from=")]
        *sources, target = words
        destination = _at(tree, workdir / target)
        for source in sources:
            origin = _at(source_tree, Path("/") / source)
            if origin.is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
                shutil.copytree(origin, destination, symlinks=True, dirs_exist_ok=True, ignore=ignore)
            else:
                place = destination / origin.name if target.endswith("/") else destination
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(origin, place)


def start(stage: Stage, tree: Path, models: Path, folder: Path) -> int:
    """Start the final stage and probe it from inside; returns the exit code."""
    inside = Path(stage.environment["HEADWAITER_MODELS"])
    bundles = {inside / path.parent.name / path.name: path for path in models.glob("*/[0-9]*")}
    # The same once more, to be changed to.
    bundles[inside / "pronounce" / "2"] = models / "pronounce" / "1"
    box = _hardened(stage, tree, folder, {**bundles, PROBE: ROOT / "deploy" / "probe.py"})
    box.environment = {**box.environment, "HEADWAITER_MODEL_CONTROL": "explicit"}
    ports = [str(port) for port in stage.ports]
    probe = [str(VENV / "bin" / "python"), str(PROBE)]
    command = [
        *probe,
        "--ports",
        *ports,
        "--healthcheck",
        *stage.healthcheck,
        "--entrypoint",
        *stage.entrypoint,
    ]
    wrapped = box.command(command)
    return subprocess.run(wrapped, check=False, timeout=180).returncode  # noqa: S603


def ask_load_tester(stage: Stage, tree: Path, folder: Path) -> int:
    """Start the load tester's stage, without a server to load; returns the exit code."""
    box = _hardened(stage, tree, folder, {})
    print(f"prove_image: {' '.join(stage.entrypoint)} --help", flush=True)
    command = box.command([*stage.entrypoint, "--help"])
    return subprocess.run(command, check=False, timeout=60, stdout=subprocess.DEVNULL).returncode  # noqa: S603


def _hardened(stage: Stage, tree: Path, folder: Path, readable: dict[Path, Path]) -> Sandbox:
    """A sandbox as tight as a hardened container of a stage."""
    if stage.user is None or 0 in stage.user:
        raise DockerfileError(f"the stage {stage.name!r} runs as root")
    # A stranger must be able to read what is bind-mounted, whatever this user's umask.
    for path in (folder, tree):
        path.chmod(0o755)
    return Sandbox(
        readable={VENV: _at(tree, VENV), SHIMS: folder / "shims", **readable},
        environment=stage.environment,
        workdir="/tmp",  # noqa: S108
        user=stage.user,
    )


def _at(tree: Path, path: Path) -> Path:
    return tree / path.relative_to("/")


if __name__ == "__main__":
    sys.exit(main())
