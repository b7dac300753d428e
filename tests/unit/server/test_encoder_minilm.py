"""A real model, packed and padded: all-MiniLM-L6-v2."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.encoding import Encoding
from headwaiter_server.lifecycle.building import build_model
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.lifecycle.subject import Subject
from headwaiter_server.model.contract import EncoderModel
from headwaiter_server.model.encoder import Head, PackedEncoder, PaddedEncoder
from headwaiter_server.model.onnx import OnnxGraph

from .encoder_scheduler import encoder_scheduler

EMBED = Head("embedding", "unit_embedding")


def texts() -> list[Encoding]:
    dice = np.random.default_rng(7)
    return [
        Encoding([101, *dice.integers(1000, 30000, length).tolist(), 102])
        for length in [1, 3, 9, 17, 40, 5, 5, 120, 2, 30, 60, 8]
    ]


@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_alone_as_in_any_batch(kind: str, minilm: Mapping[str, Path]) -> None:
    """A real model answers a text within 1e-5 alike alone and in batches of any mix of lengths."""
    graph = OnnxGraph.load("minilm", (minilm[kind] / "model.onnx").read_bytes(), 1)
    model: EncoderModel = PackedEncoder(graph, EMBED) if kind == "packed" else PaddedEncoder(graph, EMBED, pad_id=0)
    dice = np.random.default_rng(8)
    sources = texts()
    alone = [model.run([source], [False])[0] for source in sources]
    for order in (range(len(sources)), dice.permutation(len(sources))[:7].tolist(), [7, 0], [3, 3, 3]):
        answers = model.run([sources[index] for index in order], [False] * len(order))
        for index, answer in zip(order, answers, strict=True):
            np.testing.assert_allclose(answer, alone[index], atol=1e-5)


@pytest.mark.parametrize("kind", ["packed", "padded"])
async def test_each_text_gets_its_own_vector_from_the_scheduler(kind: str, minilm: Mapping[str, Path]) -> None:
    """Through lane, workers and shared runs, every text is answered with the vector that it has alone."""
    graph = OnnxGraph.load("minilm", (minilm[kind] / "model.onnx").read_bytes(), 1)
    model: EncoderModel = PackedEncoder(graph, EMBED) if kind == "packed" else PaddedEncoder(graph, EMBED, pad_id=0)
    sources = texts() * 2
    async with encoder_scheduler(model, workers=2, tokens=128) as parts:
        calls = [parts.submit(source) for source in sources]
        answers = await asyncio.gather(*(call.future for call in calls))
    for source, (answer,) in zip(sources, answers, strict=True):
        np.testing.assert_allclose(answer.values, model.run([source], [False])[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_real_bundle_is_loaded(kind: str, minilm: Mapping[str, Path]) -> None:
    """What the exporter writes passes every check that is made when a model is loaded."""
    built = build_model(
        BundleLocation("minilm", 1, minilm[kind]), "fp32", lambda name, graph: OnnxGraph.load(name, graph, 1)
    )
    assert isinstance(built.body, Subject)
    assert (built.manifest.task, built.body.model.packed) == (bundle_pb2.TASK_EMBED, kind == "packed")
