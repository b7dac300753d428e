"""The real all-MiniLM-L6-v2 in int8: near fp32 on texts it was not made with, and deaf to batch-mates."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from headwaiter_export import Options, export_checkpoint
from headwaiter_export.bundle import read_manifest
from headwaiter_export.encoders.layout import Layout, Tokens
from headwaiter_export.quantization.bounds import Bounds, Wishes
from headwaiter_export.quantization.certificate import batch_differences
from headwaiter_export.quantization.corpus import Corpus
from headwaiter_export.quantization.judge import Judge
from headwaiter_export.quantization.products import find_sites
from headwaiter_export.quantization.rewrite import Plan, rewritten
from headwaiter_export.runtime import Graph
from headwaiter_proto.v1 import bundle_pb2
from tokenizers import Tokenizer

pytestmark = [pytest.mark.torch, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def bundle(request: pytest.FixtureRequest, minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported with the default texts and bounds: the one that `make` has exported for all tests, if there is one."""
    given: Path | None = request.config.getoption("--encoders-dir")
    if given is not None:
        return given / "packed" / "minilm" / "1"
    target = tmp_path_factory.mktemp("models") / "minilm" / "1"
    export_checkpoint(minilm_folder, target, Options(int8=Wishes()))
    return target


def test_bounds_are_reached(bundle: Path) -> None:
    """On the held-out half and on another domain, with every large product in int8."""
    assert Bounds() == Bounds(0.998, 0.99, 0.93, 1e-4, None)
    certificate = read_manifest(bundle).variants[1].quantization
    Bounds().check(certificate)
    assert [point.texts for point in certificate.points] == ["held-out texts", "another domain"]
    assert min(point.count for point in certificate.points) >= 300
    assert max(point.max_batch_diff for point in certificate.points) < 1e-6
    assert list(certificate.fp32_weights) == []
    assert (bundle / "model.int8.onnx").stat().st_size < 0.7 * (bundle / "model.onnx").stat().st_size


def test_rounding_would_tie_a_text_to_its_batch_mates(bundle: Path, corpus: Corpus, tmp_path: Path) -> None:
    """Without exact sums in attention the last bit of a sum, which depends on the batch, turns some roundings over."""
    model = onnx.load(bundle / "model.onnx")
    smaller = rewritten(model, {site: Plan() for site in find_sites(model)}, 8, exact_attention=False)
    path = tmp_path / "model.onnx"
    path.write_bytes(smaller.SerializeToString())
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.no_padding()
    texts = [Tokens(each.ids, each.type_ids) for each in tokenizer.encode_batch(corpus.choosing[:200])]
    judge = Judge(bundle_pb2.TASK_EMBED, Layout(bundle_pb2.GRAPH_KIND_PACKED, token_types=True, pad_id=0))
    worst = [
        max(point.max_abs_diff for point in batch_differences(judge, Graph(each), texts))
        for each in (path, bundle / "model.int8.onnx")
    ]
    assert worst[0] > 1e-4
    assert worst[1] < 1e-6
