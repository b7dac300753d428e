"""What all tests share: the exported pronounce model."""

from __future__ import annotations

from pathlib import Path

import pytest

CHECKPOINT = Path(__file__).parent.parent / "examples" / "pronounce" / "checkpoint"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run without torch use a model that was exported before."""
    parser.addoption("--models-dir", type=Path, help="a repository with the exported pronounce model")


@pytest.fixture(scope="session")
def models_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository that holds the pronounce model."""
    given: Path | None = request.config.getoption("--models-dir")
    if given is not None:
        return given
    from headwaiter_export import export_checkpoint  # noqa: PLC0415 - pulls in torch

    repository = tmp_path_factory.mktemp("models")
    export_checkpoint(CHECKPOINT, repository / "pronounce" / "1")
    return repository
