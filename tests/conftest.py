"""What all tests share: the exported pronounce model, and a real encoder."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import turns

# A shell that runs the tests in the background has them ignore what Ctrl-C sends, and with them all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKPOINT = Path(__file__).parent.parent / "examples" / "pronounce" / "checkpoint"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run without torch use a model that was exported before."""
    parser.addoption("--models-dir", type=Path, help="a repository with the exported pronounce model")
    parser.addoption("--encoders-dir", type=Path, help="exported all-MiniLM-L6-v2: packed/minilm/1 and padded/minilm/1")


def pytest_configure(config: pytest.Config) -> None:
    """Let processes take turns, where there are several."""
    turns.take_part(config)


@pytest.fixture(scope="session")
def models_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository that holds the pronounce model."""
    given: Path | None = request.config.getoption("--models-dir")
    if given is not None:
        return given
    from headwaiter_export import export_checkpoint  # noqa: PLC0415 - pulls in torch

    return turns.made_once(
        request.config,
        "models",
        tmp_path_factory.mktemp("models"),
        lambda repository: export_checkpoint(CHECKPOINT, repository / "pronounce" / "1"),
    )


@pytest.fixture(scope="session")
def minilm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of the real all-MiniLM-L6-v2, by kind of graph: "packed" and "padded"."""

    def bundles(folder: Path) -> dict[str, Path]:
        return {kind: folder / kind / "minilm" / "1" for kind in ("packed", "padded")}

    def export(folder: Path) -> None:
        from headwaiter_export import export_checkpoint  # noqa: PLC0415 - pulls in torch
        from headwaiter_export.architectures import Options  # noqa: PLC0415 - as above

        from benchmarks.encoders.weights import minilm_checkpoint  # noqa: PLC0415 - where nothing was exported before

        for kind, bundle in bundles(folder).items():
            export_checkpoint(minilm_checkpoint(), bundle, Options(graph=kind))

    given: Path | None = request.config.getoption("--encoders-dir")
    if given is None:
        pytest.importorskip("torch", reason="--encoders-dir names no exported encoders, and nothing can export them")
        given = turns.made_once(request.config, "minilm", tmp_path_factory.mktemp("minilm"), export)
    return bundles(given)


@pytest.fixture(scope="session")
def encoders_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with a small encoder for each task, exported from a checkpoint; one of them padded."""
    pytest.importorskip("torch", reason="nothing can export the encoders")
    from e2e.tiny_encoders import write_checkpoints  # noqa: PLC0415 - as above
    from headwaiter_export import export_checkpoint  # noqa: PLC0415 - pulls in torch
    from headwaiter_export.architectures import Options  # noqa: PLC0415 - as above

    def export(folder: Path) -> None:
        for task, checkpoint in write_checkpoints(folder / "checkpoints").items():
            options = Options(task=task, graph="padded" if task == "tag" else "packed")
            export_checkpoint(checkpoint, folder / "models" / task / "1", options)

    return turns.made_once(request.config, "encoders", tmp_path_factory.mktemp("encoders"), export) / "models"


@pytest.fixture(scope="session")
def generators_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with two small models that generate: one that goes on with texts, one that answers them."""
    pytest.importorskip("torch", reason="nothing can export the models")
    from e2e.tiny_generators import write_checkpoints  # noqa: PLC0415 - as above
    from headwaiter_export import export_checkpoint  # noqa: PLC0415 - pulls in torch

    def export(folder: Path) -> None:
        for name, checkpoint in write_checkpoints(folder / "checkpoints").items():
            export_checkpoint(checkpoint, folder / "models" / name / "1")

    return turns.made_once(request.config, "generators", tmp_path_factory.mktemp("generators"), export) / "models"
