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
def encoder_server(encoders_dir: Path) -> Iterator[ServerProcess]:
    """One server with these encoders that all tests of a session may call; none may stop it."""
    with running_server("--models", str(encoders_dir), "--lame-duck-seconds", "0") as process:
        yield process
