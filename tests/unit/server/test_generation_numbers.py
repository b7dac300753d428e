"""A text on which a model that generates overflows fails alone, at any stage, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import onnx
import pytest
from headwaiter_server.errors import EngineError
from headwaiter_server.lifecycle.building import build_model, digest_of
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.model.cached import CachedModel
from headwaiter_server.model.onnx import OnnxGraph
from headwaiter_server.tokenizer import TextTokenizer

from .scheduler import scheduler

WORDS = ("waiter", "quick", "soup", "table", "spoon", "fork", "napkin", "equator", "bread", "menu")
# Rows take more texts than one, one after the other: 10 words three times, in 4 rows.
ROUNDS, ROWS = 3, 4


def spoiled(graph: bytes, token: int) -> bytes:
    """A graph of the real model; reading one token makes NaN of it."""
    model = onnx.load_from_string(graph)
    weights = {each.name: each for each in model.graph.initializer}
    read = next(
        node
        for node in model.graph.node
        if node.op_type == "Gather" and node.input[0] in weights and "ids" in node.input[1]
    )
    values = onnx.numpy_helper.to_array(weights[read.input[0]]).copy()
    values[token, 0] = np.nan
    # Another matrix: the same one may make the logits, of every text.
    read.input[0] = "spoiled"
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "spoiled"))
    return model.SerializeToString()


def model_of(folder: Path, where: str = "", token: int = 0) -> CachedModel:
    """The model of a bundle; with one of its graphs spoiled once it has passed its checks."""

    def open_graph(name: str, graph: bytes, **_: object) -> OnnxGraph:
        bad = bool(where) and name.endswith(where)
        return OnnxGraph.load(name, spoiled(graph, token) if bad else graph, 1)

    location = BundleLocation("pronounce", 1, folder)
    # As a server does beside others, which leaves the golden texts to the trial.
    body = build_model(location, "fp32", open_graph, digest_of(location), live=True).body
    assert isinstance(body, CachedModel)
    return body


async def generate(model: CachedModel, sources: list[list[int]]) -> list[list[int] | BaseException]:
    """The tokens of each text, of a call of its own; all calls wait at the same time."""
    async with scheduler(model, rows=ROWS) as parts:
        calls = [parts.submit(ids, max_new_tokens=64) for _ in range(ROUNDS) for ids in sources]
        answers = await asyncio.gather(*(call.future for call in calls), return_exceptions=True)
        return [each if isinstance(each, BaseException) else each[0].token_ids for each in answers]


@pytest.mark.parametrize("where", ["ENCODER", "DECODER"])
async def test_text_that_overflows_fails_alone(models_dir: Path, where: str) -> None:
    """NaN in what one letter is read as, or one sound: texts without it are answered as ever, in the same rows."""
    folder = models_dir / "pronounce" / "1"
    tokenizer = TextTokenizer.from_json((folder / "tokenizer.json").read_text(encoding="utf-8"), 64, None)
    sources = [tokenizer.encode(word, word).ids for word in WORDS]
    whole = await generate(model_of(folder), sources)
    generated = [tokens for tokens in whole if isinstance(tokens, list)]
    # A letter of two of the words, or the first sound of one of them.
    read, spoiled_id = {
        "ENCODER": (sources * ROUNDS, tokenizer.encode("q", "q").ids[0]),
        "DECODER": (generated, generated[0][0]),
    }[where]
    hit = [spoiled_id in tokens for tokens in read]
    assert 0 < sum(hit) < len(hit) / 2
    found = await generate(model_of(folder, where, spoiled_id), sources)
    assert [isinstance(each, EngineError) for each in found] == hit
    assert [None if gone else tokens for tokens, gone in zip(found, hit, strict=True)] == [
        None if gone else tokens for tokens, gone in zip(whole, hit, strict=True)
    ]
