"""Every family that generates goes on with texts as transformers' `generate` does, together and from any place."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from headwaiter_export import Options, errors, export_checkpoint
from headwaiter_export.generation import cached
from headwaiter_export.generation.gate import Continuation, held
from headwaiter_export.generation.graph import CacheShape
from headwaiter_export.generation.runtime import CachedRows, DecoderOnly, EncoderDecoder, generate
from headwaiter_export.runtime import Graph
from headwaiter_proto.v1 import bundle_pb2
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

pytestmark = pytest.mark.torch

VOCAB = 300
ENDS = (2, 11, 23, 57, 60, 81, 120, 147, 176, 203, 222, 250, 271)
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 80,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TRANSLATORS = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 80,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": False,
}
T5 = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "n_positions": 80,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": False,
}
# gpt_neox and pegasus stand for those that nobody thought of.
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "gpt_neox": SMALL,
    "llama": SMALL | {"num_key_value_heads": 2},
    "mistral": SMALL | {"num_key_value_heads": 2, "sliding_window": 6},
    "qwen2": SMALL | {"num_key_value_heads": 1},
    "qwen3": SMALL | {"num_key_value_heads": 2, "head_dim": 16},
    "t5": T5,
    "mt5": T5 | {"feed_forward_proj": "gated-gelu"},
    "bart": TRANSLATORS,
    "marian": TRANSLATORS,
    "pegasus": TRANSLATORS,
    "gemma2": SMALL | {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 6},
}


Exported = Callable[[str], tuple[Path, bundle_pb2.Manifest]]


# Spreads of random weights with which models do not go in circles: embeddings, attention to the source, all others.
SPREADS = {"t5": (0.3, 0.4, 0.3), "mt5": (0.3, 0.3, 0.3), "bart": (0.1, 1.0, 0.2)}
SPREADS |= {"marian": (1.0, 1.0, 0.1), "pegasus": (1.0, 1.5, 0.1)}


def _spread(family: str, name: str) -> float:
    embeddings, to_source, others = SPREADS.get(family, (0.1, 0.35, 0.35))
    if any(part in name for part in ("embed_", "wte", "shared")):
        return embeddings
    return to_source if "encoder_attn" in name or "EncDecAttention" in name else others


def save_decoder(folder: Path, family: str) -> Path:
    """A checkpoint folder of a small random model that does not repeat itself."""
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(family, **FAMILIES[family])
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model: Any = kind.from_config(config).eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1:
                weights.normal_(0.0, _spread(family, name))
    model.generation_config.eos_token_id = list(ENDS)
    model.save_pretrained(folder)
    words = {f"w{number}": number for number in range(VOCAB)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w3"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Gives the bundle of a family; not to be changed."""

    @cache
    def export(family: str) -> tuple[Path, bundle_pb2.Manifest]:
        base = tmp_path_factory.mktemp(family)
        bundle = base / "m" / "1"
        return bundle, export_checkpoint(save_decoder(base / "checkpoint", family), bundle)

    return export


@pytest.mark.parametrize("family", FAMILIES)
def test_family_goes_on_as_generate_does(exported: Exported, family: str) -> None:
    """200 texts of mixed length give transformers' own tokens, in groups and pieces; and these are worth comparing."""
    bundle, manifest = exported(family)
    assert manifest.task == bundle_pb2.TASK_GENERATE
    assert manifest.graph_kind == bundle_pb2.GRAPH_KIND_CACHED
    assert manifest.architecture == family
    together = manifest.limits.max_total_tokens
    assert together == (0 if FAMILIES[family] in (T5, TRANSLATORS) or family == "mt5" else 80)
    parity = manifest.variants[0].parity
    assert parity.texts_identical == parity.texts_compared >= 195
    assert max(point.max_abs_diff for point in parity.points) <= 1e-4
    golden = np.load(bundle / "golden.npz", allow_pickle=False)
    assert len(golden["source_ids"]) == 16
    graphs = _opened(bundle, manifest)
    generator = np.random.default_rng(7)
    texts = [generator.integers(0, VOCAB, length).tolist() for length in range(1, 41) for _ in range(6)]
    tokens, _ = generate(graphs, texts, limit=30, ends=frozenset(ENDS), chunk=9)
    assert len({token for row in tokens for token in row}) >= 50
    assert len({len(row) for row in tokens}) > 5


def test_rows_leave_one_another_alone(exported: Exported) -> None:
    """A text gives the same tokens and the same logits alone, beside others, and in pieces of any length."""
    graphs = _opened(*exported("mistral"))
    generator = np.random.default_rng(3)
    texts = [generator.integers(0, VOCAB, length).tolist() for length in (1, 30, 7, 12, 2)]
    together, logits = generate(graphs, texts, limit=20, ends=frozenset(), chunk=5)
    for at, text in enumerate(texts):
        for chunk in (1, 4, 64):
            (alone,), (own,) = generate(graphs, [text], limit=20, ends=frozenset(), chunk=chunk)
            assert alone == together[at]
            np.testing.assert_allclose(own, logits[at], atol=1e-5)


def test_the_cache_is_written_in_place(exported: Exported) -> None:
    """A step changes one column of each row's cache, and nothing else of it."""
    graphs = _opened(*exported("llama"))
    rows = CachedRows(graphs.decoder, graphs.shape, rows=3, capacity=20)
    for row, length in enumerate((4, 9, 1)):
        rows.prefill(row, list(range(length)), 64)
    before = {name: kept.copy() for name, kept in rows.kept.items()}
    rows.read(np.array([[5], [6], [7]]), 0)
    for name, kept in rows.kept.items():
        changed = (kept != before[name]).any(axis=(1, 3))  # (rows, capacity)
        assert np.argwhere(changed).tolist() == [[0, 4], [1, 9], [2, 1]]


def test_ends_are_those_that_generate_goes_by(exported: Exported) -> None:
    """Every token that ends a text stands in the manifest, the first of them as the main one."""
    special = exported("gpt2")[1].special_tokens
    assert (special.eos_id, *special.more_eos_ids) == ENDS


def test_texts_of_the_user_are_compared(tmp_path: Path) -> None:
    """Lines of a file are tokenized and compared first; what is missing to 200 are random tokens."""
    words = tmp_path / "words.txt"
    words.write_text("w5 w6 w7\nw8\n")
    bundle = tmp_path / "m" / "1"
    export_checkpoint(save_decoder(tmp_path / "gpt2", "gpt2"), bundle, Options(words=words))
    golden = np.load(bundle / "golden.npz", allow_pickle=False)
    assert golden["source_ids"][0, : golden["source_lengths"][0]].tolist() == [5, 6, 7]
    assert golden["source_ids"][1, : golden["source_lengths"][1]].tolist() == [8]


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    """A model that goes on with texts judges none, and what was asked for is named."""
    with pytest.raises(errors.UnknownArchitectureError, match="no head to classify"):
        export_checkpoint(save_decoder(tmp_path / "gpt2", "gpt2"), tmp_path / "m" / "1", Options(task="classify"))


def test_attention_that_wants_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the operator has no word for is named, and nothing is written."""
    real = cached.cached_attention

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, cached.ATTENTION, partial(real, s_aux=torch.zeros(4)))
    with pytest.raises(errors.GraphRejectedError, match="its attention takes s_aux"):
        export_checkpoint(save_decoder(tmp_path / "llama", "llama"), tmp_path / "m" / "1")
    assert not (tmp_path / "m").exists()


def test_a_graph_that_sees_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sliding window that is left out makes the gate say which texts differ."""
    real = cached.cached_attention
    monkeypatch.setitem(
        ALL_ATTENTION_FUNCTIONS,
        cached.ATTENTION,
        lambda *arguments, **more: real(*arguments, **(more | {"sliding_window": None})),
    )
    with pytest.raises(errors.ParityError):
        export_checkpoint(save_decoder(tmp_path / "mistral", "mistral"), tmp_path / "m" / "1")
    assert not (tmp_path / "m").exists()


def test_ties_are_not_compared_further() -> None:
    """Where PyTorch's two likeliest tokens are nearer than the tolerance, either may come, and that is told."""
    wanted = Continuation([1, 2], np.array([[0.0, 1.0, 0.0], [0.0, 0.5, 0.50001]], np.float32))
    found = [1, 1], np.array([[0.0, 1.0, 0.0], [0.0, 0.500005, 0.5]], np.float32)
    difference, tied = held(found, wanted, 1e-4)
    assert difference == pytest.approx(1e-5, rel=0.1)
    assert tied
    with pytest.raises(ValueError, match="differ"):
        held(found, wanted, 1e-6)


def _opened(bundle: Path, manifest: bundle_pb2.Manifest) -> DecoderOnly | EncoderDecoder:
    kept = manifest.kv_cache
    shape = CacheShape(kept.num_layers, kept.num_heads, kept.head_dim)
    decoder = Graph(bundle / "decoder.onnx")
    if manifest.limits.max_total_tokens:
        return DecoderOnly(decoder, shape)
    return EncoderDecoder(Graph(bundle / "encoder.onnx"), decoder, shape, manifest.special_tokens.bos_id)
