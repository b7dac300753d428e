"""int8 variants of models that generate: near to fp32, the same in any mix, and written only within their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
from e2e.generating import asked, generators, put_together, serving, untimed, wait_until_nothing_is_held
from headwaiter_export import Options, errors, export_checkpoint
from headwaiter_export.bundle import read_manifest
from headwaiter_export.exporting import write_bundle
from headwaiter_export.generation import int8
from headwaiter_export.generation.form import Form
from headwaiter_export.generation.given import Given, read, read_all
from headwaiter_export.generation.quality import compare, group_differences
from headwaiter_export.generation.recipe import NEW_TOKENS
from headwaiter_export.generation.runtime import CachedRows, EncoderDecoder, FloatArray, Graphs, generate
from headwaiter_export.generation.signature import CacheShape, decoder_only, encoder_decoder
from headwaiter_export.progress import Silent
from headwaiter_export.quantization.bounds import Bounds, Wishes
from headwaiter_export.runtime import Graph
from headwaiter_proto.v1 import bundle_pb2

from .decoders import VOCAB, save_decoder

pytestmark = pytest.mark.torch

# Random weights decide nothing clearly: what is near to fp32 for a trained model is far for them.
LOOSE = Wishes(Bounds(mean_cosine=0.99, worst_cosine=0.9, token_agreement=0.6, batch_difference=1e-30))

# Other texts, as token ids.
TOKENS = [f"{one} {one + 1} {two}" for one in range(4, 20) for two in range(4, 12)]


@pytest.fixture(scope="module")
def encoder_and_decoder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the tiny Transformer with an int8 variant; not to be changed."""
    bundle = tmp_path_factory.mktemp("int8") / "tiny" / "1"
    export_checkpoint(checkpoint, bundle, Options(int8=LOOSE))
    return bundle


@pytest.fixture(scope="module")
def decoder_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a small GPT-2 with an int8 variant, made with a user's texts; not to be changed."""
    folder = tmp_path_factory.mktemp("gpt2")
    generator = np.random.default_rng(5)
    lines = [" ".join(f"w{word}" for word in generator.integers(30, VOCAB, 12)) for _ in range(150)]
    words = folder / "words.txt"
    words.write_text("\n".join(["w5 w6 w7", "w8", *lines, "w9 " * 79]))
    bundle = folder / "m" / "1"
    export_checkpoint(save_decoder(folder / "checkpoint", "gpt2"), bundle, Options(words=words, int8=LOOSE))
    return bundle


@pytest.fixture(params=["encoder_and_decoder", "decoder_alone"])
def bundle8(request: pytest.FixtureRequest) -> Path:
    """Each of them."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


def test_texts_of_the_user_are_compared(decoder_alone: Path) -> None:
    """Lines of a file are tokenized and compared first; what is missing to 200 are random tokens.

    A line beside which there is no room to go on shortens nothing.
    """
    golden = np.load(decoder_alone / "golden.npz", allow_pickle=False)
    for at, text in enumerate(([5, 6, 7], [8])):
        assert golden["source_ids"][at, : golden["source_lengths"][at]].tolist() == text
    parity = read_manifest(decoder_alone).variants[0].parity
    assert parity.texts_compared >= 200
    assert max(point.steps for point in parity.points) == NEW_TOKENS


def test_variant_stands_in_the_manifest(bundle8: Path) -> None:
    """The variant has the graphs of fp32 under names of their own, with the same inputs and outputs, and is smaller."""
    fp32, variant = read_manifest(bundle8).variants
    assert (fp32.name, variant.name) == ("fp32", "int8")
    for one, other in zip(fp32.graphs, variant.graphs, strict=True):
        assert (one.role, list(one.inputs), list(one.outputs)) == (other.role, list(other.inputs), list(other.outputs))
        assert other.file.name == one.file.name.replace(".onnx", ".int8.onnx")
        assert other.file.size_bytes < 0.75 * one.file.size_bytes
    assert variant.quantization.quantized_weights > 0
    assert variant.quantization.max_run_tokens == (128 if len(variant.graphs) > 1 else 0)
    assert variant.quantization.speedup > 0


def test_certificate_is_what_the_graphs_do(bundle8: Path) -> None:
    """The certified figures are within the bounds, and about those of other texts."""
    points = read_manifest(bundle8).variants[1].quantization.points
    assert [point.texts for point in points] == ["held-out texts"]
    assert points[0].count >= 32
    assert points[0].max_batch_diff == 0.0
    assert 0.9 <= points[0].worst_cosine <= points[0].mean_cosine < 1.0
    assert 0.6 <= points[0].agreement <= 1.0
    fp32, variant = _models(bundle8)
    texts = _texts(fp32, 40)
    quality = compare(read_all(fp32, texts, 16), read_all(variant, texts, 16))
    assert quality.mean_cosine == pytest.approx(points[0].mean_cosine, abs=0.005)
    assert quality.agreement == pytest.approx(points[0].agreement, abs=0.15)


def test_answers_are_the_same_in_any_mix(bundle8: Path) -> None:
    """A text's logits are bit-identical alone, beside others, in another row, and beside longer ones."""
    _, variant = _models(bundle8)
    texts = _texts(variant, 14)
    alone = [read(variant, [text])[1][0] for text in texts]
    for members in ([0, 1], [13, 0, 5], [7, 6, 5, 4, 3, 2, 1], list(range(14))):
        found = read(variant, [texts[index] for index in members])[1]
        for index, logits in zip(members, found, strict=True):
            np.testing.assert_array_equal(logits, alone[index])
    tokens, _ = generate(variant, [text.text for text in texts], limit=10, ends=frozenset(), chunk=64)
    for text, own in zip(texts, tokens, strict=True):
        assert generate(variant, [text.text], limit=10, ends=frozenset(), chunk=64)[0] == [own]


# Ways to ask for texts of a dozen tokens; the seed belongs to the text.
WAYS: tuple[dict[str, Any], ...] = (
    {"logprobs": 5},
    {"max_new_tokens": 9, "temperature": 0.9, "top_p": 0.95, "seed": 3},
    {"max_new_tokens": 12, "num_beams": 3, "num_return_sequences": 2},
    {"max_new_tokens": 12, "repetition_penalty": 1.3, "logprobs": 0},
)


def test_server_tells_the_same_alone_and_beside_others(bundle8: Path, tmp_path: Path) -> None:
    """Served as int8, a text is told alike to the last bit: alone, among a call's others, streamed among callers."""
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "1").symlink_to(bundle8)
    texts = _lines(bundle8, 10)
    with serving(tmp_path, "--variant", "small=int8") as server, generators(server.grpc) as callers:
        every = [(way, text) for way in range(len(WAYS)) for text in texts]

        def call(way: int) -> list[bytes]:
            return list(map(untimed, callers.generate("small", *texts, **WAYS[way])))

        def stream(asking: tuple[int, str]) -> bytes:
            way, text = asking
            pieces = list(callers.stream(asked("small", text, **WAYS[way])))
            assert pieces[0].variant == "int8"
            return untimed(put_together(pieces)[0])

        alone = [untimed(callers.generate("small", text, **WAYS[way])[0]) for way, text in every]
        assert len(set(alone)) > len(every) // 2
        with ThreadPoolExecutor(len(every)) as pool:
            called, streamed = pool.map(call, range(len(WAYS))), pool.map(stream, every)
            assert [each for answers in called for each in answers] == alone
            assert list(streamed) == alone
        wait_until_nothing_is_held(server, "small")


def test_source_weights_are_told_by_int8_too(encoder_and_decoder: Path) -> None:
    """They add up to 1 over a row's own source and are near to fp32's."""
    fp32, variant = _models(encoder_and_decoder)
    texts = [[5, 6, 7, 2], [30, 31, 9, 8, 4, 2]]
    tokens = np.array([[5], [9]])
    found = [
        model.begin(texts, 4, 64)[0].read_all(tokens, 0, ["source_weights"])["source_weights"]
        for model in (fp32, variant)
    ]
    np.testing.assert_allclose(found[1][0, :, :, :4].sum(-1), 1.0, atol=1e-6)
    assert not found[1][0, :, :, 4:].any()
    np.testing.assert_allclose(found[1], found[0], atol=0.05)


@pytest.mark.parametrize(
    ("bounds", "figure"),
    [
        (Bounds(token_agreement=1.01), "agreement on held-out texts is"),
        (Bounds(token_agreement=None, worst_cosine=1.01), "worst_cosine on held-out texts is"),
        (replace(LOOSE.bounds, speedup=1e9), "speedup is"),
    ],
)
def test_below_a_bound_nothing_is_written(
    encoder_and_decoder: Path, tmp_path: Path, bounds: Bounds, figure: str
) -> None:
    """The figure that misses its bound is named, and there is no bundle."""
    with pytest.raises(errors.BelowBoundError, match=figure):
        _made(encoder_and_decoder, tmp_path, Wishes(bounds), TOKENS)
    assert not (tmp_path / "m").exists()


def test_too_few_texts_are_refused(encoder_and_decoder: Path, tmp_path: Path) -> None:
    """A certificate from a handful of texts would say nothing; how many fit is said."""
    with pytest.raises(errors.TextsError, match=r"int8: \d+ of \d+ texts to choose on fit the model; at least 32"):
        _made(encoder_and_decoder, tmp_path, LOOSE, ["5 6 7", "8", "9 10"])


def test_quality_does_not_see_what_probabilities_do_not() -> None:
    """What is added to all logits changes nothing; a token that overtakes the likeliest does."""
    expected = [np.array([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0]], np.float32), np.array([[9.0, 1.0, 1.0]], np.float32)]
    same = compare(expected, [each + 100 for each in expected])
    assert same.agreement == 1.0
    assert same.worst_cosine == pytest.approx(1)
    overtaken = compare(expected, [np.array([[1.0, 2.5, 3.0], [0.0, 0.0, 5.0]], np.float32), expected[1]])
    assert overtaken.agreement == pytest.approx(2 / 3)
    assert overtaken.worst_cosine < 0.9 < overtaken.mean_cosine < 1


def test_a_dependence_on_others_is_measured(encoder_and_decoder: Path) -> None:
    """Where rows share anything, as through one scale for all, the certificate's figure is above 0."""

    class Shared(EncoderDecoder):
        """Answers a little more the more texts there are."""

        def begin(self, texts: Sequence[Sequence[int]], room: int, chunk: int) -> tuple[CachedRows, FloatArray]:
            rows, logits = super().begin(texts, room, chunk)
            return rows, logits + 1e-3 * len(texts)

    fp32, _ = _models(encoder_and_decoder)
    assert isinstance(fp32, EncoderDecoder)
    shared = Shared(fp32.encoder, fp32.decoder, fp32.shape, fp32.start_id)
    points = group_differences(shared, _texts(fp32, 20))
    for point in points:
        assert point.max_abs_diff == pytest.approx(1e-3 * (point.batch - 1), rel=0.01)
    assert max(point.batch for point in points) > 5


def _form(manifest: bundle_pb2.Manifest) -> Form:
    kept = manifest.kv_cache
    shape = CacheShape(kept.num_layers, kept.num_heads, kept.head_dim)
    return Form(shape, None if manifest.limits.max_total_tokens else manifest.special_tokens.bos_id)


def _models(bundle: Path) -> tuple[Graphs, Graphs]:
    manifest = read_manifest(bundle)
    fp32, variant = (
        _form(manifest).model([Graph(bundle / graph.file.name) for graph in each.graphs]) for each in manifest.variants
    )
    return fp32, variant


def _texts(model: Graphs, count: int) -> list[Given]:
    """Texts of mixed length that both kinds of model take, with tokens that follow."""
    generator = np.random.default_rng(11)
    high = 40 if isinstance(model, EncoderDecoder) else VOCAB
    lengths = generator.integers(1, (14, 11), (count, 2)).tolist()
    return [
        Given(generator.integers(4, high, text).tolist(), generator.integers(4, high, more).tolist())
        for text, more in lengths
    ]


def _lines(bundle: Path, count: int) -> list[str]:
    """Texts of mixed length, as callers write them to each of the models."""
    generator = np.random.default_rng(17)
    encoder = not read_manifest(bundle).limits.max_total_tokens
    words, between = (list(ascii_lowercase), "") if encoder else ([f"w{word}" for word in range(30, VOCAB)], " ")
    return [between.join(generator.choice(words, length)) for length in generator.integers(1, 14, count)]


def _made(bundle: Path, folder: Path, wishes: Wishes, lines: list[str]) -> bundle_pb2.Manifest:
    """Make the variant of a bundle anew, on other texts: token ids."""
    manifest = read_manifest(bundle)
    form = _form(manifest)

    def fill(target: Path) -> bundle_pb2.Manifest:
        for graph in manifest.variants[0].graphs:
            (target / graph.file.name).write_bytes((bundle / graph.file.name).read_bytes())
        specs = [decoder_only(form.shape, VOCAB)] if form.goes_on else encoder_decoder(form.shape, 40)
        words = folder / "words.txt"
        words.write_text("\n".join(lines))
        int8.make_variant(int8.Source(target, specs, form, frozenset([2]), 12, words, _read), wishes, Silent())
        return manifest

    return write_bundle(fill, folder / "m" / "1", force=False)


def _read(texts: Sequence[str]) -> list[list[int]]:
    return [[*map(int, text.split()), 2] for text in texts]
