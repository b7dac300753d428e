"""A real server process for the tests of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .generating import Generators, generators, serving
from .process import ServerProcess, running_server


@pytest.fixture(scope="session")
def server(models_dir: Path) -> Iterator[ServerProcess]:
    """One server that all tests of a session may call; none may stop it."""
    with running_server("--models", str(models_dir), "--lame-duck-seconds", "0") as process:
        yield process


@pytest.fixture(scope="session")
def encoder_server(encoders_dir: Path) -> Iterator[ServerProcess]:
    """One server with these encoders that all tests of a session may call; none may stop it."""
    with running_server("--models", str(encoders_dir), "--lame-duck-seconds", "0") as process:
        yield process


@pytest.fixture(scope="session")
def generators_repository(generators_dir: Path, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with a small model of each kind that generates, and pronounce."""
    folder = tmp_path_factory.mktemp("generators") / "models"
    folder.mkdir()
    for source in (*generators_dir.iterdir(), models_dir / "pronounce"):
        (folder / source.name).symlink_to(source.resolve())
    return folder


@pytest.fixture(scope="session")
def served(generators_repository: Path) -> Iterator[ServerProcess]:
    """One server with models that generate that all tests of a session may call; none may stop it."""
    with serving(generators_repository) as process:
        yield process


@pytest.fixture(scope="session")
def callers(served: ServerProcess) -> Iterator[Generators]:
    """Callers of it."""
    with generators(served.grpc) as found:
        yield found
