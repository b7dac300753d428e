"""The int8 variant of the real all-MiniLM-L6-v2, in a real server: its own answers, in any company, or none at all."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from headwaiter import AsyncClient
from numpy.typing import NDArray

from .bundle_answers import BundleAnswers
from .process import FREE_PORTS, ServerProcess, run_command, running_server

# What the answer to a text may depend on its batch-mates by.
DEAF = 1e-4
# Nothing is written into the folders of the bundles.
SERVED_AS = ["--variant", "minilm=int8", "--calibration", "off", "--lame-duck-seconds", "0"]
SENTENCES = [
    "Soup.",
    "Where is the waiter?",
    "The kitchen closes at eleven, and whoever has ordered by then is served.",
    "In the third week of the strike the dockers voted, by a narrow margin, to go back to work on Monday.",
    "A text of another kind: def serve(order): return [dish for dish in order if dish in menu]",
]


@pytest.fixture(scope="module")
def bundle(minilm: Mapping[str, Path]) -> Path:
    """The packed bundle with both variants."""
    folder = minilm["packed"]
    if not (folder / "model.int8.onnx").exists():
        pytest.skip("it was exported without an int8 variant; --encoders-dir names a bundle that has one")
    return folder


@pytest.fixture(scope="module")
def served(bundle: Path) -> Iterator[ServerProcess]:
    with running_server("--models", str(bundle.parent.parent), *SERVED_AS) as process:
        yield process


async def test_answers_are_the_variants_own_in_any_company(served: ServerProcess, bundle: Path) -> None:
    """Alone, in one call with others and beside other calls, a text gets what the int8 graph gives it alone."""
    dice = random.Random(5)
    texts = [*SENTENCES, *(" ".join(dice.choices(SENTENCES, k=dice.choice([1, 2, 5]))) for _ in range(43))]
    int8, fp32 = (BundleAnswers.of(bundle, variant) for variant in ("int8", "fp32"))
    own = np.stack([int8.to(text, output="unit_embedding") for text in texts])
    async with AsyncClient(served.grpc, timeout_seconds=120) as client:

        async def vector(text: str) -> tuple[NDArray[Any], int]:
            reply = await client.embed(text, model="minilm")
            assert reply.variant == "int8"
            return reply.vectors[0], reply.timings.batch_size

        alone = [await vector(text) for text in texts]
        together = await client.embed(texts, model="minilm")
        beside = await asyncio.gather(*map(vector, texts))
    assert {size for _, size in alone} == {1}
    assert max(size for _, size in beside) > 1
    vectors = np.stack([each for each, _ in alone])
    np.testing.assert_allclose(vectors, own, rtol=0, atol=DEAF)
    np.testing.assert_allclose(together.vectors, vectors, rtol=0, atol=DEAF)
    np.testing.assert_allclose(np.stack([each for each, _ in beside]), vectors, rtol=0, atol=DEAF)
    # fp32 would be told apart: each text's vector differs by far more than what company may change.
    fp32_vectors = np.stack([fp32.to(text, output="unit_embedding") for text in SENTENCES])
    assert abs(fp32_vectors - vectors[: len(SENTENCES)]).max(axis=1).min() > 10 * DEAF


def _listed(folder: Path, name: str, entry: dict[str, Any]) -> None:
    """Have the manifest list a file as it is now."""
    content = (folder / name).read_bytes()
    entry |= {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": str(len(content))}


def _other_golden_answers(folder: Path, manifest: dict[str, Any]) -> None:
    """Answers that no longer are what fp32 gave to these texts."""
    with np.load(folder / "golden.npz", allow_pickle=False) as stored:
        golden = dict(stored)
    golden["unit_embedding"] = golden["unit_embedding"][::-1]
    np.savez(folder / "golden.npz", allow_pickle=False, **golden)
    _listed(folder, "golden.npz", next(each for each in manifest["files"] if each["name"] == "golden.npz"))


def _other_weights(folder: Path, manifest: dict[str, Any]) -> None:
    """The certificate of one graph on another: the columns of its first int8 weights in reverse."""
    model = onnx.load(folder / "model.int8.onnx")
    weights = next(
        each
        for each in model.graph.initializer
        if each.data_type in {onnx.TensorProto.INT8, onnx.TensorProto.UINT8} and len(each.dims) > 1
    )
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights)[:, ::-1], weights.name))
    onnx.save(model, folder / "model.int8.onnx")
    _listed(folder, "model.int8.onnx", manifest["variants"][1]["graphs"][0]["file"])


def _other_file(folder: Path, manifest: dict[str, Any]) -> None:
    """A graph that is not the one that was listed."""
    del manifest
    path = folder / "model.int8.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def _loose_certificate(folder: Path, manifest: dict[str, Any]) -> None:
    """A certificate that admits to more than batch-mates may change."""
    del folder
    manifest["variants"][1]["quantization"]["points"][0]["max_batch_diff"] = 2 * DEAF


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (_other_golden_answers, "variant 'int8' does not hold on this processor: its answers are as near to fp32 as"),
        (_other_weights, "variant 'int8' does not hold on this processor: its answers are as near to fp32 as"),
        (_other_file, "altered"),
        (_loose_certificate, "its answers depend on their batch-mates by 0.0002"),
    ],
)
def test_what_does_not_hold_its_certificate_does_not_serve(
    bundle: Path, tmp_path: Path, alter: Callable[[Path, dict[str, Any]], None], words: str
) -> None:
    """The server does not start with a variant whose golden answers, weights or certificate are others."""
    folder = tmp_path / "models" / "minilm" / "1"
    folder.mkdir(parents=True)
    for name in ("golden.npz", "manifest.json", "model.int8.onnx", "tokenizer.json"):
        shutil.copyfile(bundle / name, folder / name)
    manifest = json.loads((folder / "manifest.json").read_text())
    alter(folder, manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    ended = run_command("--models", str(tmp_path / "models"), *SERVED_AS, *FREE_PORTS)
    assert ended.returncode == 1
    assert "model 'minilm' failed to load" in ended.stderr
    assert words in ended.stderr
    assert ended.stdout == ""
