"""Proves the built wheel in an environment that holds it, its extras and no torch.

What a wheel can get wrong although the working tree is right is to lack something: a module, a file beside the modules,
a dependency, a command. So everything is imported there, every command is asked for its help (`deploy/installed.py`),
and of each kind of thing that a wheel brings some tests run, which are named in `PROOFS`. All tests run in the working
tree; here they would only say the same again. They run in a copy of their own, so that nothing of the working tree can
be imported in the wheel's place.

    python -m deploy.prove_wheel --models models --encoders build/encoders
"""
# A script, which prints; not a package.
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

from deploy.wheel import ROOT, build_wheel

# Torch comes with the export's; it has no place beside a server.
EXTRAS = ("server", "otel", "load")
# For each kind of thing that a wheel brings, the tests that would fail without it; none of them may need the export.
PROOFS: dict[str, tuple[str, ...]] = {
    "command headwaiter": ("tests/unit/client/test_cli_process.py",),
    "command headwaiter-load": ("tests/unit/load/test_load_cli.py::test_a_run_is_shown_and_saved",),
    "command headwaiter-server": (
        "tests/e2e/test_lifecycle.py::test_print_config_shows_what_is_in_force",
        "tests/e2e/test_lifecycle.py::test_altered_bundle_ends_the_server_unless_partial_is_allowed",
        "tests/e2e/test_lifecycle.py::test_several_listeners_and_a_socket_file",
    ),
    "extra load": ("tests/e2e/test_load.py::test_generation_is_measured",),
    "extra otel": ("tests/e2e/test_tracing.py::test_spans_that_wait_are_sent_before_the_end",),
    "extra server": ("tests/e2e/test_main_job.py", "tests/unit/server/test_encoder_minilm.py"),
    "files headwaiter_load/page_files": ("tests/unit/load/test_report_page.py",),
    "files headwaiter_load/page_files/uplot": ("tests/unit/load/test_report_vendored.py",),
    "files headwaiter_server/metrics/page": (
        "tests/unit/server/test_metrics_endpoint.py",
        "tests/e2e/test_page.py::test_narrow_screens_scroll_one_way",
    ),
    "files headwaiter_server/metrics/page/vendor/uplot": ("tests/e2e/test_page.py::test_light_and_dark_can_be_read",),
    "service headwaiter.v1.InferenceService": (
        "tests/e2e/test_bad_input.py",
        "tests/e2e/test_lifecycle.py::test_reflection_describes_the_service",
    ),
    "service inference.GRPCInferenceService": (
        "tests/e2e/test_open_inference.py::test_generation_is_the_same",
        "tests/e2e/test_open_inference.py::test_tensors_pass_through",
        "tests/e2e/test_open_inference_shared_memory.py::test_tensors_pass_through_shared_memory",
        "tests/unit/load/test_load_cli.py::test_an_open_inference_server_is_measured",
    ),
}


def main() -> int:
    """Build, install, look and test; returns the exit code."""
    parser = argparse.ArgumentParser(description="Prove the built wheel in an environment without torch.")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder of exported models")
    parser.add_argument("--encoders", type=Path, required=True, help="folder of exported encoders, packed/ and padded/")
    arguments = parser.parse_args()
    folders = [f"--models-dir={arguments.models.resolve()}", f"--encoders-dir={arguments.encoders.resolve()}"]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headwaiter-wheel-") as folder:
        base = Path(folder)
        python = install(build_wheel(base), base / "venv")
        # Before the tests' tools are there, which could bring what the wheel forgot to ask for.
        run([python, "-I", str(ROOT / "deploy" / "installed.py")], base)
        pip(python, "--group", "test")
        print(f"prove_wheel: installed in {time.monotonic() - started:.0f} s", flush=True)
        options = ["-q", "-p", "no:cacheprovider", *folders, *selected()]
        code = subprocess.run(  # noqa: S603
            [python, "-m", "pytest", *options], cwd=copy_tests(base / "copy"), env=environment(), check=False
        ).returncode
    print(f"prove_wheel: {'ok' if code == 0 else 'FAILED'} in {time.monotonic() - started:.0f} s")
    return code


def selected() -> list[str]:
    """What pytest is to run."""
    return sorted({test for tests in PROOFS.values() for test in tests})


def install(wheel: Path, venv: Path) -> str:
    """Make an environment of the wheel and its extras, but the export; returns its interpreter."""
    run([sys.executable, "-m", "venv", "--without-pip", str(venv)], ROOT)
    python = str(venv / "bin" / "python")
    pip(python, f"{wheel}[{','.join(EXTRAS)}]")
    return python


def pip(python: str, *what: str) -> None:
    """Install something into an environment, at the versions that we test with."""
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    run([*command, "--constraint", "constraints.txt", *what], ROOT)


def copy_tests(folder: Path) -> Path:
    """Copy what tests need beside the packages; returns the copy's root."""
    for name in ("tests", "examples", "docs"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def environment() -> dict[str, str]:
    """Give this process's environment without what could lead an interpreter back to the working tree."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV", "VIRTUAL_ENV"))}


def run(command: list[str], workdir: Path) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, cwd=workdir, env=environment(), check=True)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
