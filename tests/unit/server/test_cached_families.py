"""Rows of real families of models: windows, relative positions, shared heads and encoders leave rows alone, too."""

from __future__ import annotations

from random import Random

import pytest
from headwaiter_server.model.cached import CachedModel

from .cached_texts import Texts, generate, model_of

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module", params=["mistral", "t5"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CachedModel:
    """Small random models: one with a sliding window and shared heads, one with relative positions and an encoder."""
    from export.decoders import save_decoder  # noqa: PLC0415 - pulls in torch
    from headwaiter_export import export_checkpoint  # noqa: PLC0415 - as above

    folder = tmp_path_factory.mktemp(request.param)
    bundle = folder / "m" / "1"
    export_checkpoint(save_decoder(folder / "checkpoint", request.param), bundle)
    return model_of(bundle)


@pytest.mark.parametrize("seed", range(3))
def test_row_answers_as_if_it_were_alone(model: CachedModel, seed: int) -> None:
    """Whatever joins, steps, branches off and leaves beside it, to the last bit."""
    texts = Texts(model, Random(seed), model.vocab_size, longest_source=40)
    for _ in range(60):
        texts.act()


def test_texts_go_on_together_as_alone(model: CachedModel) -> None:
    """Sources of mixed length give the same tokens in one batch and each in its own."""
    random = Random(4)
    sources = [[random.randrange(model.vocab_size) for _ in range(random.choice([1, 4, 9, 40]))] for _ in range(16)]
    together = generate(model, sources, 20)
    assert together == [generate(model, [source], 20)[0] for source in sources]
    assert len({token for text in together for token in text}) > 20
