"""A checkpoint that cannot be exported is refused for its own reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from headwaiter_export import ExportError, Options, errors, export_checkpoint
from headwaiter_export.texts import random_texts, read_texts
from headwaiter_export.transformer_recipe import load
from tokenizers import Tokenizer

pytestmark = pytest.mark.torch


def _refused(source: Path, options: Options | None = None) -> ExportError:
    target = source.parent / "name" / "1"
    with pytest.raises(ExportError) as caught:
        export_checkpoint(source, target, options)
    assert not target.parent.exists()
    return caught.value


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file_is_named(own_checkpoint: Path, name: str) -> None:
    """Each missing file is a missing checkpoint, naming the file."""
    (own_checkpoint / name).unlink()
    error = _refused(own_checkpoint)
    assert isinstance(error, errors.MissingCheckpointError)
    assert name in str(error)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    """A source that is no folder is a missing checkpoint."""
    error = _refused(tmp_path / "nowhere")
    assert isinstance(error, errors.MissingCheckpointError)
    assert "nowhere is not a folder" in str(error)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe not what it says", b"[]"])
def test_corrupt_file_is_named(own_checkpoint: Path, name: str, content: bytes) -> None:
    """Each file that does not hold what it should is a corrupt checkpoint, naming the file."""
    (own_checkpoint / name).write_bytes(content)
    error = _refused(own_checkpoint)
    assert isinstance(error, errors.CorruptCheckpointError)
    assert name in str(error)


def test_tokenizer_of_another_format_is_corrupt(own_checkpoint: Path) -> None:
    """A tokenizer.json that the tokenizers library does not read is a corrupt checkpoint."""
    (own_checkpoint / "tokenizer.json").write_text("{}")
    assert isinstance(_refused(own_checkpoint), errors.CorruptCheckpointError)


def test_tokenizer_larger_than_the_model_is_corrupt(own_checkpoint: Path) -> None:
    """A tokenizer with more tokens than the model has embeddings is a corrupt checkpoint."""
    path = own_checkpoint / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_tokens([f"token{index}" for index in range(50)])
    path.write_text(tokenizer.to_str())
    error = _refused(own_checkpoint)
    assert isinstance(error, errors.CorruptCheckpointError)
    assert "80 tokens, but config.json has vocab_size 40" in str(error)


@pytest.mark.parametrize("change", [{"architecture": "perceptron"}, {"architecture": None}, {"format_version": 9}])
def test_unknown_architecture_is_named(own_checkpoint: Path, change: dict[str, object]) -> None:
    """Another architecture or format version is refused, naming it."""
    path = own_checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    error = _refused(own_checkpoint)
    assert isinstance(error, errors.UnknownArchitectureError)
    assert repr(next(iter(change.values()))) in str(error)


@pytest.mark.parametrize("options", [Options(graph="padded"), Options(max_tokens=8)])
def test_choice_that_the_architecture_does_not_leave_is_refused(own_checkpoint: Path, options: Options) -> None:
    """A graph or a limit that nobody would look at is refused instead of passed over."""
    with pytest.raises(errors.UnknownArchitectureError, match="models: there is no choice of"):
        export_checkpoint(own_checkpoint, own_checkpoint.parent / "name" / "1", options)


def test_task_that_the_architecture_is_not_for_is_refused(own_checkpoint: Path) -> None:
    """A task other than generation has no recipe here."""
    error = _refused(own_checkpoint, Options(task="classify"))
    assert isinstance(error, errors.UnknownArchitectureError)
    assert "'classify'" in str(error)


def test_missing_words_file_is_named(own_checkpoint: Path) -> None:
    """A file of texts that is not there is refused before any graph is made."""
    error = _refused(own_checkpoint, Options(words=own_checkpoint / "no-words.txt"))
    assert isinstance(error, errors.TextsError)
    assert "no-words.txt" in str(error)


def test_texts_that_the_model_refuses_are_left_out(own_checkpoint: Path) -> None:
    """Too long texts, unknown characters and empty lines are skipped; with none left the file is refused."""
    source = load(own_checkpoint)
    path = own_checkpoint / "words.txt"
    path.write_text("good\n\n  \nnaïve\n" + "x" * 40 + "\nfine\n")
    texts = read_texts(path, source.tokenizer, 32, source.unk_id)
    assert texts.names == ["'good'", "'fine'"]
    path.write_text("ÄÖÜ\n")
    with pytest.raises(errors.TextsError, match=r"words\.txt: none of its 1 lines fits"):
        read_texts(path, source.tokenizer, 32, source.unk_id)


def test_random_texts_fit_the_model_and_repeat() -> None:
    """Without real texts the same 500 random rows come each time, within the limits."""
    texts = random_texts(40, 5, {0, 1, 2, 3})
    assert texts.rows == random_texts(40, 5, {0, 1, 2, 3}).rows
    assert len(texts.rows) == 500
    assert {len(row) for row in texts.rows} == {2, 3, 4, 5}
    assert {token for row in texts.rows for token in row} <= set(range(4, 40))
