"""A text on which a model that generates overflows fails alone, at any stage, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
from fakes import EchoModel
from headwaiter_server.errors import EngineError
from headwaiter_server.model.contract import Graph
from headwaiter_server.model.onnx import OnnxGraph
from headwaiter_server.model.seq2seq import CacheGeometry, Seq2SeqModel
from headwaiter_server.tokenizer import TextTokenizer

from .scheduler import scheduler

WORDS = ("waiter", "quick", "soup", "table", "spoon", "fork", "napkin", "equator", "bread", "menu")
# Rows take more texts than one, one after the other: 10 words three times, in 4 rows.
ROUNDS, ROWS = 3, 4


def graph(path: Path, spoiled_id: int | None = None) -> Graph:
    """A graph of the real model; reading one token makes NaN of it."""
    model = onnx.load(path)
    if spoiled_id is not None:
        read = next(
            node for node in model.graph.node if node.op_type == "Gather" and node.input[1] in {"token", "input_ids"}
        )
        (weight,) = (each for each in model.graph.initializer if each.name == read.input[0])
        values = onnx.numpy_helper.to_array(weight).copy()
        values[spoiled_id, 0] = np.nan
        # Another matrix: the same one may make the logits, of every text.
        read.input[0] = "spoiled"
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, "spoiled"))
    return OnnxGraph.load(path.name, model.SerializeToString(), 1)


async def generate(
    encoder: Graph, step: Graph, geometry: CacheGeometry, sources: list[list[int]]
) -> list[list[int] | BaseException]:
    """The tokens of each text, of a call of its own; all calls wait at the same time."""
    model = cast("EchoModel", Seq2SeqModel(encoder, step, geometry, bos_id=1, eos_id=2))
    async with scheduler(model, rows=ROWS) as parts:
        calls = [parts.submit(ids) for _ in range(ROUNDS) for ids in sources]
        answers = await asyncio.gather(*(call.future for call in calls), return_exceptions=True)
        return [each if isinstance(each, BaseException) else each[0].token_ids for each in answers]


@pytest.mark.parametrize("where", ["encoder", "decoder_step"])
async def test_text_that_overflows_fails_alone(models_dir: Path, where: str) -> None:
    """NaN in what one letter is read as, or one sound: texts without it are answered as ever, in the same rows."""
    folder = models_dir / "pronounce" / "1"
    tokenizer = TextTokenizer.from_json((folder / "tokenizer.json").read_text(encoding="utf-8"), 64, None)
    sources = [tokenizer.encode(word, word).ids for word in WORDS]
    paths = {name: folder / f"{name}.onnx" for name in ("encoder", "decoder_step")}
    geometry = CacheGeometry(**json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["kv_cache"])
    whole = await generate(graph(paths["encoder"]), graph(paths["decoder_step"]), geometry, sources)
    generated = [tokens for tokens in whole if isinstance(tokens, list)]
    # A letter of two of the words, or the first sound of one of them.
    read, spoiled_id = {
        "encoder": (sources * ROUNDS, tokenizer.encode("q", "q").ids[0]),
        "decoder_step": (generated, generated[0][0]),
    }[where]
    hit = [spoiled_id in tokens for tokens in read]
    assert 0 < sum(hit) < len(hit) / 2
    encoder, step = (graph(path, spoiled_id if name == where else None) for name, path in paths.items())
    found = await generate(encoder, step, geometry, sources)
    assert [isinstance(each, EngineError) for each in found] == hit
    assert [None if gone else tokens for tokens, gone in zip(found, hit, strict=True)] == [
        None if gone else tokens for tokens, gone in zip(whole, hit, strict=True)
    ]
