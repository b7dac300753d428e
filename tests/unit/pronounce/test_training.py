"""Stopping and resuming a training changes nothing about its result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from headwaiter_export.transformer import load_checkpoint
from rich.console import Console
from tokenizers import Tokenizer

from examples.pronounce import curve
from examples.pronounce.batches import encode_entries
from examples.pronounce.data import Entry
from examples.pronounce.metrics import pronounce
from examples.pronounce.train import parse_settings
from examples.pronounce.trainer import Settings, Trainer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch

_TRAIN = [
    Entry("ab" * (1 + index % 3) + "cde"[index % 3], (("AE1", "B") * (1 + index % 3), ("K",))) for index in range(20)
]
_VALIDATION = _TRAIN[:3]


def _trainer(tokenizer: Tokenizer, work_dir: Path, *, epochs: int = 3, autocast: bool = False) -> Trainer:
    settings = Settings(
        work_dir=work_dir,
        epochs=epochs,
        batch_words=4,
        warmup_steps=2,
        autocast=autocast,
        d_model=16,
        num_heads=2,
        d_ff=16,
        num_layers=1,
    )
    return Trainer(settings, tokenizer, _TRAIN, _VALIDATION, Console(quiet=True))


def _stop_after(trainer: Trainer, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `stop` come, like a signal, while a given batch is being learned."""
    update = trainer.average.update

    def update_and_stop(model: torch.nn.Module, step: int) -> None:
        update(model, step)
        if trainer.state.step + 1 == steps:
            trainer.stop()

    monkeypatch.setattr(trainer.average, "update", update_and_stop)


def _weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    own = dict(trainer.model.named_parameters())
    return {**own, **{f"average.{name}": each for name, each in trainer.average.weights.items()}}


# Five batches an epoch: inside one, on the last batch of one, and on the first.
@pytest.mark.parametrize("stop_at", [3, 5, 11])
def test_resumed_equals_uninterrupted(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Stopped anywhere and started again, a training ends with the very same weights and averages."""
    whole = _trainer(tokenizer, tmp_path / "whole")
    whole.run()
    first = _trainer(tokenizer, tmp_path / "parts")
    _stop_after(first, stop_at, monkeypatch)
    first.run()
    assert first.state.step == stop_at
    second = _trainer(tokenizer, tmp_path / "parts")
    second.run()

    assert second.state.step == whole.state.step == 15
    expected = _weights(whole)
    for name, weight in _weights(second).items():
        assert torch.equal(weight, expected[name]), name
    logs = [curve.read_records(tmp_path / each / "log.jsonl") for each in ("whole", "parts")]
    assert [record["loss"] for record in logs[0]] == [record["loss"] for record in logs[1]]


def test_training_writes_what_it_says(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A training leaves a loadable best and latest checkpoint, a log of every epoch, and its picture."""
    trainer = _trainer(tokenizer, tmp_path, autocast=True)
    trainer.run()
    checkpoint = load_checkpoint(tmp_path / "latest")
    assert (tmp_path / "best" / "model.safetensors").exists()
    assert [record["epoch"] for record in curve.read_records(tmp_path / "log.jsonl")] == [1, 2, 3]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.partial"))
    # The folder holds the averaged weights, which are the ones that were validated.
    for name, weight in checkpoint.model.named_parameters():
        assert torch.equal(weight, trainer.average.weights[name]), name
    answers = pronounce(
        checkpoint.model,
        Tokenizer.from_str(checkpoint.tokenizer_json),
        encode_entries(_VALIDATION, tokenizer),
    )
    assert len(answers) == len(_VALIDATION)


def test_a_training_learns(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The loss of a tiny training falls to less than two thirds of where it began."""
    _trainer(tokenizer, tmp_path, epochs=12).run()
    losses = [record["loss"] for record in curve.read_records(tmp_path / "log.jsonl")]
    assert losses[-1] < 0.67 * losses[0]


def test_of_an_epoch_logged_twice_the_later_counts(tmp_path: Path) -> None:
    """A training killed between its log and its state repeats an epoch; the log then reads as one."""
    path = tmp_path / "log.jsonl"
    assert curve.read_records(path) == []
    for record in ({"epoch": 1, "loss": 3}, {"epoch": 2, "loss": 2}, {"epoch": 2, "loss": 1}):
        curve.append_record(path, record)
    assert json.loads(path.read_text().splitlines()[0]) == {"epoch": 1, "loss": 3}
    assert curve.read_records(path) == [{"epoch": 1, "loss": 3}, {"epoch": 2, "loss": 1}]


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting has a flag whose default is the setting's; results go to the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings, threads = parse_settings(["--epochs", "7", "--no-autocast", "--threads", "3"])
    assert settings == Settings(work_dir=tmp_path / "headwaiter" / "pronounce", epochs=7, autocast=False)
    assert threads == 3
