"""A text's tokens, scores and log-probabilities are its own: the same alone and in any mix, to the last bit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from fakes import VOCAB, EchoModel, dice
from headwaiter_server.generation.beams import BeamSearch
from headwaiter_server.generation.choosing import Chooser, ChosenToken, choose
from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.generation.sequence import Generated
from headwaiter_server.model.cached import CachedModel
from headwaiter_server.model.generation import GenerationModel
from hypothesis import given, settings
from hypothesis import strategies as st

from .cached_graphs import END, POISON, small_model
from .cached_graphs import VOCAB as SMALL_VOCAB
from .cached_texts import model_of
from .scheduler import Scheduler, scheduler

# Ways to choose tokens; the limit of new tokens is added.
WAYS: list[dict[str, Any]] = [
    {},
    {"logprobs": 3},
    {"temperature": 1.0, "seed": 5},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 11, "logprobs": 0},
    {"repetition_penalty": 1.3},
    {"stop_token_ids": frozenset(range(30, 36))},
    {"num_beams": 2},
    {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5, "logprobs": 1},
]


@dataclass(frozen=True)
class Asked:
    """A text, and when it comes and goes.

    Attributes:
        source: Its tokens.
        decoding: How it goes on.
        turns: Turns of the event loop before it comes.
        patience: Turns after which its caller goes; None if it stays.
    """

    source: tuple[int, ...]
    decoding: Decoding
    turns: int
    patience: int | None


def asked(vocab: int, longest: int) -> st.SearchStrategy[Asked]:
    """Any text."""

    def made(source: list[int], way: int, limit: int, turns: int, patience: int | None) -> Asked:
        return Asked(tuple(source), Decoding(limit, **WAYS[way]), turns, patience)

    return st.builds(
        made,
        st.lists(st.integers(8, vocab - 3), min_size=1, max_size=longest),
        st.integers(0, len(WAYS) - 1),
        st.integers(1, 12),
        st.integers(0, 6),
        st.none() | st.none() | st.integers(0, 20),
    )


async def ask(parts: Scheduler, text: Asked) -> Generated | None:
    """One text of one call; nothing if its caller goes."""
    for _ in range(text.turns):
        await asyncio.sleep(0)
    call = parts.submit(text.source, decoding=text.decoding)
    if text.patience is not None:
        for _ in range(text.patience):
            await asyncio.sleep(0)
        call.future.cancel()
        return None
    return (await call.future)[0]


async def together(
    model: GenerationModel,
    texts: list[Asked],
    **more: Any,  # noqa: ANN401 - as of `scheduler`
) -> list[Generated | None]:
    """What comes of texts that come and go, and that nobody leaves anything behind."""
    async with scheduler(model, **more) as parts:
        answers = await asyncio.gather(*(ask(parts, text) for text in texts))
        async with asyncio.timeout(10):
            while parts.lane.running or parts.lane.waiting or parts.dispatcher.busy_workers:
                await asyncio.sleep(0)
        assert (parts.lane.reserved_bytes, parts.lane.used_rows) == (0, 0)
        assert not parts.crashes
        assert not parts.failures
        return answers


def answer(generated: Generated) -> tuple[object, ...]:
    """All that must not depend on anybody else."""
    attention = None if generated.attention is None else generated.attention.tobytes()
    reason = (generated.finish_reason, generated.stopped_by)
    return (generated.token_ids, *reason, generated.tokens, generated.hypotheses, attention)


def by_hand(model: EchoModel, text: Asked) -> tuple[object, ...]:
    """Tokens, log-probabilities and hypotheses of one text, without rows, batches and steps."""
    assert model.distribution is not None
    source, decoding = list(text.source), text.decoding
    prompt = source if model.start_id is None else [model.start_id]
    if decoding.num_beams > 1:
        search, texts = BeamSearch(decoding, model.end_ids, prompt), [list[int]()]
        while not search.done:
            logits = np.stack([model.distribution(source, each) for each in texts])
            texts = [[*texts[parent], token] for parent, token in search.advance(logits)]
        best = search.hypotheses[0]
        return best.token_ids, best.tokens, search.hypotheses
    chooser, tokens = Chooser(decoding, prompt), list[ChosenToken]()
    while len(tokens) < decoding.max_new_tokens:
        ids = [each.token_id for each in tokens]
        (chosen,) = choose(model.distribution(source, ids)[np.newaxis], [chooser])
        if chosen.token_id in model.end_ids | decoding.stop_token_ids:
            break
        tokens.append(chosen)
    return [each.token_id for each in tokens], None if decoding.logprobs is None else tuple(tokens), ()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(asked(VOCAB, 150), min_size=1, max_size=25),
    st.integers(4, 9),
    st.integers(1, 2),
    st.sampled_from([40, 512]),
    st.sampled_from(["encoder", "decoder only"]),
)
def test_any_mix_gives_what_a_text_gives_by_hand(
    texts: list[Asked], rows: int, workers: int, tokens: int, kind: str
) -> None:
    """With texts of all lengths and all ways to choose that join, end and are cancelled, each gets its own tokens."""
    model = EchoModel(decoder_only=kind == "decoder only", distribution=dice(3, end=2.0))
    answers = asyncio.run(together(model, texts, rows=rows, workers=workers, tokens=tokens))
    for text, got in zip(texts, answers, strict=True):
        if got is not None:
            assert (got.token_ids, got.tokens, got.hypotheses) == by_hand(model, text)


SMALL = small_model(places=200)
SMALL.end_ids = frozenset({END, POISON})  # whoever reads the poison would fail


@settings(max_examples=25, deadline=None)
@given(st.lists(asked(SMALL_VOCAB, 150), min_size=2, max_size=12), st.integers(4, 8), st.sampled_from([40, 512]))
def test_real_graph_gives_the_same_alone_and_in_any_mix(texts: list[Asked], rows: int, tokens: int) -> None:
    """The same with a real graph, and prompts that are read in parts: to the last bit of every log-probability."""

    async def run() -> None:
        answers = await together(SMALL, texts, rows=rows, tokens=tokens)
        for text, got in zip(texts, answers, strict=True):
            if got is not None:
                (alone,) = await together(SMALL, [replace(text, turns=0)])
                assert alone is not None
                assert answer(got) == answer(alone)

    asyncio.run(run())


_FAMILIES = [pytest.param(name, marks=pytest.mark.torch) for name in ("t5", "bart")]


@pytest.fixture(scope="module", params=["pronounce", *_FAMILIES])
def translator(
    request: pytest.FixtureRequest, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> CachedModel:
    """Real models with an encoder."""
    if request.param == "pronounce":
        return model_of(models_dir / "pronounce" / "1")
    from export.decoders import save_decoder  # noqa: PLC0415 - pulls in torch
    from headwaiter_export import export_checkpoint  # noqa: PLC0415 - as above

    folder = tmp_path_factory.mktemp(request.param)
    export_checkpoint(save_decoder(folder / "checkpoint", request.param), folder / "m" / "1")
    return model_of(folder / "m" / "1")


# With an encoder there is also to tell what each token attends to.
TOLD = [*WAYS, {"attention": True}, {"attention": True, "logprobs": 2, "temperature": 0.8, "seed": 3}]


@pytest.mark.parametrize("seed", range(6))
async def test_real_encoder_and_decoder_give_the_same_alone_and_in_any_mix(translator: CachedModel, seed: int) -> None:
    """The same with a model that has an encoder, which encodes several texts in one run, whatever is told of them."""
    random = Random(seed)
    texts = [
        Asked(
            tuple(random.randrange(4, 30) for _ in range(random.randint(1, 20))),
            Decoding(random.randint(1, 30), **random.choice(TOLD)),
            random.randint(0, 8),
            random.randint(0, 20) if random.random() < 0.2 else None,
        )
        for _ in range(14)
    ]
    answers = await together(translator, texts, rows=random.randint(4, 8))
    for text, got in zip(texts, answers, strict=True):
        if got is not None:
            (alone,) = await together(translator, [replace(text, turns=0)])
            assert alone is not None
            assert answer(got) == answer(alone)
            assert (got.attention is None) != text.decoding.attention
