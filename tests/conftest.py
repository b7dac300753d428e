"""What all tests share: the exported pronounce model, and a real encoder."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# A shell that runs the tests in the background has them ignore what Ctrl-C sends, and with them all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKPOINT = Path(__file__).parent.parent / "examples" / "pronounce" / "checkpoint"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run without torch use a model that was exported before."""
    parser.addoption("--models-dir", type=Path, help="a repository with the exported pronounce model")
    parser.addoption("--encoders-dir", type=Path, help="exported all-MiniLM-L6-v2: packed/minilm/1 and padded/minilm/1")


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


@pytest.fixture(scope="session")
def minilm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of the real all-MiniLM-L6-v2, by kind of graph: "packed" and "padded"."""
    given: Path | None = request.config.getoption("--encoders-dir")
    folder = given or tmp_path_factory.mktemp("encoders")
    bundles = {kind: folder / kind / "minilm" / "1" for kind in ("packed", "padded")}
    if given is None:
        pytest.importorskip("torch", reason="--encoders-dir names no exported encoders, and nothing can export them")
        from headwaiter_export import export_checkpoint  # noqa: PLC0415 - pulls in torch
        from headwaiter_export.architectures import Options  # noqa: PLC0415 - as above

        from benchmarks.encoders.weights import minilm_checkpoint  # noqa: PLC0415 - where nothing was exported before

        for kind, bundle in bundles.items():
            export_checkpoint(minilm_checkpoint(), bundle, Options(graph=kind))
    return bundles
