"""Bundles of models that generate, through every check that is made when they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle import golden_generation
from headwaiter_server.lifecycle.warm_up import warm_up
from headwaiter_server.model.cached import CachedModel, CachedRows
from headwaiter_server.model.contract import FloatArray, IntArray

from .cached_graphs import END, PLACES, POISON, VOCAB
from .cached_texts import model_of
from .generator_bundles import MadeGenerator, quantized_points


@pytest.fixture
def made(tmp_path: Path) -> MadeGenerator:
    """A whole bundle."""
    return MadeGenerator(tmp_path)


@pytest.fixture
def quantized(tmp_path: Path) -> MadeGenerator:
    """The same, as a variant of fewer bits."""
    return MadeGenerator(tmp_path, quantized=True)


def test_model_is_what_the_manifest_says(made: MadeGenerator) -> None:
    """Its vocabulary, its places, where texts begin and end, and what a token takes."""
    model = made.build().body
    assert isinstance(model, CachedModel)
    assert (model.vocab_size, model.max_total_tokens, model.start_id) == (VOCAB, PLACES, None)
    assert model.end_ids == {END, 5}
    assert (model.token_bytes, model.source_token_bytes) == (2 * 2 * 2 * 16 * 4, 0)


def test_model_with_an_encoder_begins_a_text_of_its_own(models_dir: Path) -> None:
    """What is generated has places of its own, and sources take memory."""
    model = model_of(models_dir / "pronounce" / "1")
    assert (model.start_id, model.max_total_tokens) == (1, 64)
    assert model.token_bytes == model.source_token_bytes == 2 * 3 * 6 * 32 * 4


def set_golden(name: str, place: tuple[int, ...], value: float) -> Callable[[MadeGenerator], None]:
    def alter(made: MadeGenerator) -> None:
        made.golden[name][place] = value

    return alter


def rename_graph_input(made: MadeGenerator) -> None:
    model = onnx.load_from_string(made.graph)
    for node in model.graph.node:
        node.input[:] = ["ids" if name == "input_ids" else name for name in node.input]
    model.graph.input[0].name = "ids"
    made.graph = model.SerializeToString()


def fix_capacity(made: MadeGenerator) -> None:
    model = onnx.load_from_string(made.graph)
    model.graph.input[2].type.tensor_type.shape.dim[2].dim_value = 64
    made.graph = model.SerializeToString()


ALTERED = {
    "other logits": (set_golden("first_logits", (1, 3), 50.0), "computes something else than the exporting one"),
    "other token": (set_golden("tokens", (2, 9), 1), "1 different tokens"),
    "nan": (set_golden("first_logits", (0, 0), np.nan), "largest difference of the first logits nan"),
    "poison": (set_golden("source_ids", (3, 1), POISON), "do not run on the golden inputs: the model computed what is"),
    "no token": (set_golden("source_ids", (3, 1), VOCAB), "do not run on the golden inputs: Error"),
    "empty": (set_golden("source_lengths", (0,), 0), "one of them has no tokens"),
    "too long": (
        lambda made: made.golden.update(tokens=np.ones((4, 90), np.int64), token_counts=np.full(4, 90)),
        "place",
    ),
    "none": (lambda made: made.golden.update(source_ids=np.ones((0, 3), np.int64)), "there are none"),
    "less logits": (
        lambda made: made.golden.update(first_logits=made.golden["first_logits"][:, 1:]),
        "logits of shape (50,) against (49,)",
    ),
    "names": (rename_graph_input, "the inputs are ids, past_lengths"),
    "axes": (fix_capacity, "has key_0 of float32 (rows, 2, 64, 16), expected key_0 of float32 (rows, 2, capacity, 16)"),
}


@pytest.mark.parametrize(("alter", "words"), ALTERED.values(), ids=ALTERED)
def test_altered_bundle_is_refused(made: MadeGenerator, alter: Callable[[MadeGenerator], None], words: str) -> None:
    """What the graph does not compute, or is not, is said, with where the bundle lies."""
    alter(made)
    with pytest.raises(BundleError) as caught:
        made.build()
    assert words in str(caught.value)
    assert str(made.location.folder) in str(caught.value)


def test_rows_that_lean_on_others_are_refused(made: MadeGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that goes on in another way beside others does not serve."""
    step = CachedRows.step

    def leaning(self: CachedRows, tokens: IntArray, places: IntArray, start: int) -> FloatArray:
        logits = step(self, tokens, places, start)
        logits += 1e-4 * (len(tokens) - 1)
        return logits

    monkeypatch.setattr(CachedRows, "step", leaning)
    with pytest.raises(BundleError, match=r"how a text goes on depends on others beside it: its logits by 0\.0003"):
        made.build()


def test_quantized_variant_is_held_to_its_certificate(quantized: MadeGenerator) -> None:
    """Near to fp32 as certified, and not nearer: other tokens than fp32's are its own affair up to a point."""
    quantized.golden["tokens"][0, 3] = (quantized.golden["tokens"][0, 3] + 1) % 40
    quantized.build()
    quantized.golden["first_logits"] += 3.0  # which no probability notices
    quantized.build()


def test_quantized_variant_that_lost_more_is_refused(quantized: MadeGenerator) -> None:
    """A processor that computes otherwise shows in the logits, or in the tokens."""
    generator = np.random.default_rng(1)
    whole = quantized.golden["first_logits"].copy()
    quantized.golden["first_logits"][1] += generator.normal(0, 3 * whole[1].std(), VOCAB)
    with pytest.raises(BundleError, match="variant 'int8' does not hold on this processor: its logits are as near"):
        quantized.build()
    quantized.golden["first_logits"] = whole
    quantized.golden["tokens"][:2] = 1
    with pytest.raises(BundleError, match=r"of its tokens are the same \(at least 80%\)"):
        quantized.build()
    quantized_points(quantized.manifest).agreement = 0.0
    quantized.golden["tokens"][:3] = 1
    with pytest.raises(BundleError, match=r"\(at least 50%\); serve another variant"):
        quantized.build()


def test_tokens_that_must_not_be_hide_no_loss(quantized: MadeGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside their logits all others would be nothing, and any variant as near to fp32 as could be."""
    forbidden, never = [VOCAB - 1, VOCAB - 2], np.finfo(np.float32).min
    checked = CachedRows._checked

    def forbidding(self: CachedRows, rows: slice) -> FloatArray:
        logits = checked(self, rows)
        logits[:, forbidden] = never
        return logits

    monkeypatch.setattr(CachedRows, "_checked", forbidding)
    quantized.golden["first_logits"][:, forbidden] = never
    quantized.build()
    whole = quantized.golden["first_logits"].copy()
    quantized.golden["first_logits"][1, : VOCAB - 2] *= -1
    with pytest.raises(BundleError, match="does not hold on this processor"):
        quantized.build()
    quantized.golden["first_logits"] = whole
    quantized.golden["first_logits"][1, 0] = never  # which it would choose here all the same
    with pytest.raises(BundleError, match="a cosine of nan"):
        quantized.build()


def test_warm_up_runs_the_ends_of_the_longest_texts(made: MadeGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest prompt, several together, the longest one's last piece, and the last place of all."""
    made.manifest.limits.max_source_tokens = PLACES - 1
    built = made.build()
    read: list[tuple[int, int]] = []
    stepped: list[tuple[int, int]] = []
    real_read, real_step = CachedRows.read, CachedRows.step

    def watched_read(self: CachedRows, row: int, tokens: list[int], place: int) -> FloatArray:
        read.append((place, len(tokens)))
        return real_read(self, row, tokens, place)

    def watched_step(self: CachedRows, tokens: IntArray, places: IntArray, start: int) -> FloatArray:
        stepped.append((len(tokens), int(places.max())))
        return real_step(self, tokens, places, start)

    monkeypatch.setattr(CachedRows, "read", watched_read)
    monkeypatch.setattr(CachedRows, "step", watched_step)
    warm_up(built)
    assert {(0, 1), (0, 16), (0, PLACES - 1)} <= set(read)
    assert {(1, 1), (8, 18), (1, PLACES - 1)} <= set(stepped)


def test_model_whose_positions_end_before_its_places_is_refused(made: MadeGenerator) -> None:
    """What the manifest promises is tried to the last place before anybody is served."""
    made.manifest.limits.max_total_tokens = 2 * PLACES
    built = made.build()
    with pytest.raises(BundleError, match="it does not run"):
        warm_up(built)


def test_prompts_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch, made: MadeGenerator) -> None:
    """Cut at multiples of a fixed number of tokens, the last piece as long as it is."""
    monkeypatch.setattr(golden_generation, "CHUNK_TOKENS", 4)
    model = made.build().body
    assert isinstance(model, CachedModel)
    rows, places = model.new_rows(1), []
    real = rows.read

    def watched(row: int, tokens: list[int], place: int) -> FloatArray:
        places.append((place, len(tokens)))
        return real(row, tokens, place)

    monkeypatch.setattr(rows, "read", watched)
    golden_generation.read_prompt(rows, 0, list(range(9)))
    assert places == [(0, 4), (4, 4), (8, 1)]
