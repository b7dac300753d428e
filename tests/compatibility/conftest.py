"""One server with models of every kind, which all tests of this folder call; and a record of what they saw."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.process import ServerProcess, running_server

from .models import write_models
from .record import Record

_PAGE = "--compatibility-page"
_RECORD = pytest.StashKey[Record]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run write down what it has seen."""
    parser.addoption(_PAGE, type=Path, help="write what the clients of other servers saw into this page")


def pytest_configure(config: pytest.Config) -> None:
    """Begin the record."""
    config.stash[_RECORD] = Record()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the page, if that was asked for and every test has passed."""
    page: Path | None = session.config.getoption(_PAGE, default=None)
    if page is not None and exitstatus == pytest.ExitCode.OK:
        session.config.stash[_RECORD].write(page)


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest) -> Record:
    """What is written down."""
    return request.config.stash[_RECORD]


@pytest.fixture(scope="session")
def served_models(
    models_dir: Path, minilm: dict[str, Path], encoders_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model repository: one model for each task on texts, and models of tensors."""
    folder = tmp_path_factory.mktemp("served") / "models"
    shutil.copytree(minilm["packed"], folder / "minilm" / "1")
    shutil.copytree(models_dir / "pronounce" / "1", folder / "pronounce" / "1")
    for task in ("classify", "rerank", "tag"):
        shutil.copytree(encoders_dir / task / "1", folder / task / "1")
    write_models(folder)
    return folder


@pytest.fixture(scope="session")
def served(served_models: Path) -> Iterator[ServerProcess]:
    """The server; what a test changes it changes back."""
    options = ("--calibration", "off", "--model-control", "explicit", "--shared-memory", "on")
    with running_server("--models", str(served_models), *options, "--lame-duck-seconds", "0") as process:
        yield process
