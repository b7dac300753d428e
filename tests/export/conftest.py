"""A tiny Transformer with random weights, exported once."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase
from types import ModuleType

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

SAMPLE_TEXTS = [a + b + c for a in ascii_lowercase for b in "aeiou" for c in ("n", "stle", "r", "lling")]


def build_tokenizer() -> Tokenizer:
    """Letters in, `</s>` at the end."""
    symbols = ["<pad>", "<s>", "</s>", "<unk>", *ascii_lowercase]
    tokenizer = Tokenizer(WordLevel({symbol: at for at, symbol in enumerate(symbols)}, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return tokenizer


def _save_tiny(folder: Path, *, norm_first: bool) -> None:
    import torch  # noqa: PLC0415 - only where the export side is installed
    from headwaiter_export import transformer as tf  # noqa: PLC0415

    torch.manual_seed(0)
    config = tf.TransformerConfig(
        vocab_size=40,
        d_model=32,
        num_heads=4,
        d_ff=64,
        num_encoder_layers=2,
        num_decoder_layers=2,
        max_source_length=32,
        max_target_length=12,
        norm_first=norm_first,
    )
    tf.save_checkpoint(folder, tf.Transformer(config).eval(), build_tokenizer().to_str())


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with sample texts; not to be changed."""
    folder = tmp_path_factory.mktemp("checkpoint")
    _save_tiny(folder, norm_first=True)
    (folder / "sample_texts.txt").write_text("\n".join(SAMPLE_TEXTS))
    return folder


@pytest.fixture
def post_norm_checkpoint(tmp_path: Path) -> Path:
    """The same sizes, norms after the residual sums, no sample texts."""
    _save_tiny(tmp_path / "post-norm", norm_first=False)
    return tmp_path / "post-norm"


@pytest.fixture
def own_checkpoint(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may spoil."""
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Register a recipe that writes `text` to a file and then raises `fail`; gives its source folder."""
    from headwaiter_export import architectures  # noqa: PLC0415
    from headwaiter_proto.v1 import bundle_pb2  # noqa: PLC0415

    def install(text: str = "model", fail: BaseException | None = None) -> Path:
        def export(source: Path, folder: Path, options: object, progress: object) -> bundle_pb2.Manifest:
            (folder / "model.onnx").write_text(text)
            if fail is not None:
                raise fail
            parity = bundle_pb2.ParityCertificate(tolerance=1e-4, points=[bundle_pb2.ParityPoint(batch=1)])
            variant = bundle_pb2.Variant(name="fp32", parity=parity)
            return bundle_pb2.Manifest(format_version=1, architecture="stand-in", variants=[variant])

        module = ModuleType("stand_in_recipe")
        module.export = export  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(architectures.RECIPES, "stand-in", module.__name__)
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        (source / "config.json").write_text('{"architecture": "stand-in"}')
        return source

    return install


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the tiny Transformer; not to be changed."""
    from headwaiter_export import export_checkpoint  # noqa: PLC0415

    target = tmp_path_factory.mktemp("models") / "tiny" / "1"
    export_checkpoint(checkpoint, target)
    return target
