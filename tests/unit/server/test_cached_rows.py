"""Rows of a running batch: whatever is done to a row's neighbours, it answers as if it were alone, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from headwaiter_server.encoding import Encoding
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.model.cached import CachedModel
from headwaiter_server.model.contract import Array, FloatArray
from headwaiter_server.model.onnx import OnnxBinding, OnnxGraph
from headwaiter_server.model.sources import Sources

from .cached_graphs import PLACES, POISON, VOCAB, small_model
from .cached_texts import Texts, Twin, generate, model_of
from .scheduler import scheduler


@pytest.fixture(scope="module")
def small() -> CachedModel:
    """Goes on with texts."""
    return small_model()


@pytest.fixture(scope="module")
def translator() -> CachedModel:
    """Answers texts."""
    return small_model(encoder=True)


@pytest.fixture(scope="module")
def pronounce(models_dir: Path) -> CachedModel:
    """A real one that answers texts."""
    return model_of(models_dir / "pronounce" / "1")


@pytest.mark.parametrize("seed", range(20))
def test_row_answers_as_if_it_were_alone(small: CachedModel, seed: int) -> None:
    """Texts join, step beside others and beside nobody, branch off, fail and leave: each has its own history."""
    texts = Texts(small, Random(seed), VOCAB - 1, poison=POISON)
    for _ in range(60):
        texts.act()


@pytest.mark.parametrize("seed", range(20))
def test_row_attends_to_its_own_source(translator: CachedModel, seed: int) -> None:
    """The same with sources of all lengths, which are laid anew as long ones come and go, and some of which fail."""
    texts = Texts(translator, Random(seed), VOCAB - 1, poison=POISON, longest_source=PLACES - 1)
    for _ in range(60):
        texts.act()
    assert texts.batch.copied_bytes > 0


@pytest.mark.parametrize("seed", range(5))
def test_row_of_a_real_model_answers_as_if_it_were_alone(pronounce: CachedModel, seed: int) -> None:
    """The same with a model that was trained."""
    texts = Texts(pronounce, Random(seed), pronounce.vocab_size, longest_source=64)
    for _ in range(40):
        texts.act()


def test_pieces_of_a_prompt_are_as_good_as_the_whole(small: CachedModel) -> None:
    """However a prompt is cut, what follows it is the same but for the last bits."""
    prompt = [Random(3).randrange(VOCAB - 1) for _ in range(40)]
    whole = small.new_rows(1).read(0, prompt, 0)
    for piece in (1, 7, 32):
        rows = small.new_rows(2)
        for start in range(0, len(prompt), piece):
            found = rows.read(1, prompt[start : start + piece], start)
        np.testing.assert_allclose(found, whole, atol=1e-4)


def test_places_beyond_a_row_are_refused(small: CachedModel) -> None:
    """The graph would write there, into the next row or past the end; what was there stays."""
    rows = small.new_rows(2, 8)
    assert rows.capacity == 8
    before = rows.read(1, [1, 2, 3], 0).copy()
    for place in (-1, 8, 1 << 40):
        with pytest.raises(ValueError, match="place"):
            rows.step(np.array([1]), np.array([place]), 0)
        with pytest.raises(ValueError, match="place"):
            rows.read(0, [1], place)
    with pytest.raises(ValueError, match="place"):
        rows.read(0, [1] * 9, 0)
    with pytest.raises(ValueError, match="place"):
        rows.read(0, [], 0)
    assert np.array_equal(rows.read(1, [3], 2), alone(small, [1, 2], [3]))
    assert not np.array_equal(before, rows.read(0, [3], 0))


def test_a_row_has_no_more_places_than_the_model(small: CachedModel) -> None:
    """A model's positions end somewhere, however much room is asked for."""
    assert small.new_rows(1).capacity == small.new_rows(1, 10 * PLACES).capacity == PLACES


def test_token_that_is_none_is_refused(small: CachedModel) -> None:
    """An id beyond the vocabulary fails its run, and the next one is answered."""
    rows = small.new_rows(2)
    with pytest.raises(RuntimeError, match="out of data bounds"):
        rows.step(np.array([1, VOCAB]), np.array([0, 0]), 0)
    with pytest.raises(RuntimeError, match="out of data bounds"):
        rows.read(0, [1, VOCAB], 0)
    assert np.array_equal(rows.step(np.array([3, 3]), np.array([0, 0]), 0)[1], alone(small, [3]))


@pytest.mark.parametrize("beams", [1, 4])
async def test_source_is_encoded_once_for_a_whole_text(
    pronounce: CachedModel, monkeypatch: pytest.MonkeyPatch, beams: int
) -> None:
    """The encoder's graph runs once, over the source alone, however many steps and hypotheses follow."""
    encoded: list[int] = []
    steps: list[None] = []
    run, step = OnnxGraph.run, OnnxBinding.run

    def counted_run(graph: OnnxGraph, names: Sequence[str], feeds: Mapping[str, Array], **more: Any) -> list[Array]:  # noqa: ANN401 - as of `run`
        encoded.append(feeds["input_ids"].size)
        return run(graph, names, feeds, **more)

    def counted_step(binding: OnnxBinding) -> None:
        steps.append(None)
        step(binding)

    monkeypatch.setattr(OnnxGraph, "run", counted_run)
    monkeypatch.setattr(OnnxBinding, "run", counted_step)
    async with scheduler(pronounce) as parts:
        text = await parts.submit(range(6, 18), decoding=Decoding(30, num_beams=beams)).future
    assert encoded == [12]
    assert len(steps) >= len(text[0].token_ids) > 5


def test_a_step_copies_nothing(small: CachedModel, translator: CachedModel) -> None:
    """What is copied is told: nothing by steps, however long texts are; by `copy` what it is asked for."""
    rows = small.new_rows(3)
    rows.read(0, list(range(20)), 0)
    for place in range(20, 60):
        rows.step(np.array([1, 2]), np.array([place, 0]), 0)
    assert rows.copied_bytes == 0
    rows.copy(0, 2, 50, 60)
    assert rows.copied_bytes == 10 * small.token_bytes
    attending = translator.new_rows(3)
    attending.encode([Encoding([5] * 7)], [0])
    attending.copy(0, 1, 0, 0)
    attending.copy(0, 1, 0, 0)  # it has the source already
    assert attending.copied_bytes == 7 * translator.source_token_bytes
    attending.encode([Encoding([5] * 9)], [2])
    assert attending.copied_bytes == (7 + 2 * 7) * translator.source_token_bytes


def test_sources_take_as_many_columns_as_the_longest(translator: CachedModel) -> None:
    """When a long source has gone, the others are not computed over its columns for ever, and answer as before."""
    rows = translator.new_rows(3)
    rows.encode([Encoding([6, 7, 8])], [0])
    step = np.array([translator.start_id]), np.array([0])
    before = rows.step(*step, 0).copy()
    narrow = rows._weights.shape[-1]
    rows.encode([Encoding([5] * 60)], [2])
    assert rows._weights.shape[-1] >= 60
    assert np.array_equal(rows.step(*step, 0), before)
    rows.free(2)
    rows.encode([Encoding([4, 4])], [1])
    assert rows._weights.shape[-1] == narrow
    assert np.array_equal(rows.step(*step, 0), before)


@pytest.mark.parametrize(("most", "packs"), [(None, [90, 40]), (50, [30, 30, 30, 40]), (1000, [90, 40])])
def test_sources_are_encoded_in_packs(translator: CachedModel, most: int | None, packs: list[int]) -> None:
    """Together up to what is fastest, and up to what their variant's certificate says; a longer one alone."""
    encoder = translator._encoder
    assert encoder is not None
    encoded = Sources(encoder, translator._cache, 4, most).run([Encoding([5] * length) for length in (30, 30, 30, 40)])
    assert [len(pack.packing.input_ids) for pack in encoded] == packs


def test_texts_encoded_together_answer_as_alone(pronounce: CachedModel) -> None:
    """In one call or each by itself, sources of mixed length give the same tokens, and the same logits."""
    random = Random(2)
    sources = [[random.randrange(4, 30) for _ in range(random.choice([1, 3, 8, 50]))] for _ in range(24)]
    together = generate(pronounce, sources, 12)
    assert together == [generate(pronounce, [source], 12)[0] for source in sources]
    assert len({tuple(text) for text in together}) > 12
    rows = pronounce.new_rows(len(sources))
    rows.encode([Encoding(source) for source in sources], range(len(sources)))
    for row, source in enumerate(sources):
        twin = Twin(pronounce, source)
        assert pronounce.start_id is not None
        assert np.array_equal(rows.read(row, [pronounce.start_id], 0), twin.read([pronounce.start_id]))


def test_what_is_attended_to_is_told(translator: CachedModel) -> None:
    """Weights over the tokens of the row's own source, of every layer and head, which are one together."""
    rows = translator.new_rows(2)
    rows.encode([Encoding([5, 6, 7]), Encoding([8] * 30)], [0, 1])
    rows.step(np.full(2, translator.start_id), np.zeros(2, np.int64), 0)
    kept = rows.attention(0)
    assert kept.shape[2:] == (3,)
    assert rows.attention(1).shape[2:] == (30,)
    np.testing.assert_allclose(kept.sum(axis=-1), 1, atol=1e-5)
    rows.step(np.full(2, 9), np.ones(2, np.int64), 0)
    assert not np.array_equal(rows.attention(0), kept)


def test_decoder_only_models_have_no_sources(small: CachedModel) -> None:
    """What takes an encoder is refused by name where there is none."""
    rows = small.new_rows(1)
    with pytest.raises(ValueError, match="no encoder"):
        rows.encode([Encoding([1])], [0])
    with pytest.raises(ValueError, match="no encoder"):
        rows.attention(0)


def test_rows_of_a_model_share_nothing(small: CachedModel) -> None:
    """Two batches of one model, as two workers have them, do not see each other's rows."""
    first, second = small.new_rows(1), small.new_rows(1)
    first.read(0, [1, 2], 0)
    second.read(0, [3, 4], 0)
    assert np.array_equal(first.read(0, [5], 2), alone(small, [1, 2], [5]))


def alone(model: CachedModel, *pieces: list[int]) -> FloatArray:
    """The logits behind pieces that are read one after the other."""
    twin = Twin(model, None)
    for piece in pieces:
        twin.read(piece)
    return twin.logits
