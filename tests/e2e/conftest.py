"""A real server process for the tests of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .process import ServerProcess, running_server


@pytest.fixture(scope="session")
def server(models_dir: Path) -> Iterator[ServerProcess]:
    """One server that all tests of a session may call; none may stop it."""
    with running_server("--models", str(models_dir), "--lame-duck-seconds", "0") as process:
        yield process


@pytest.fixture(scope="session")
def encoders_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with a small encoder for each task, exported from a checkpoint; one of them padded."""
    pytest.importorskip("torch", reason="nothing can export the encoders")
    from headwaiter_export import export_checkpoint  # noqa: PLC0415 - pulls in torch
    from headwaiter_export.architectures import Options  # noqa: PLC0415 - as above

    from .tiny_encoders import write_checkpoints  # noqa: PLC0415 - as above

    folder = tmp_path_factory.mktemp("encoders")
    for task, checkpoint in write_checkpoints(folder / "checkpoints").items():
        options = Options(task=task, graph="padded" if task == "tag" else "packed")
        export_checkpoint(checkpoint, folder / "models" / task / "1", options)
    return folder / "models"


@pytest.fixture(scope="session")
def encoder_server(encoders_dir: Path) -> Iterator[ServerProcess]:
    """One server with these encoders that all tests of a session may call; none may stop it."""
    with running_server("--models", str(encoders_dir), "--lame-duck-seconds", "0") as process:
        yield process
