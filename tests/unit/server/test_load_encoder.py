"""Encoder bundles, written by hand around small real graphs, through every check that is made when they are loaded."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.building import build_model
from headwaiter_server.lifecycle.catalog import task_name
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.lifecycle.subject import Subject
from headwaiter_server.model.contract import EncoderModel
from headwaiter_server.model.onnx import OnnxGraph
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from .graphs import encodings, expected, packed_bytes, padded_bytes
from .test_manifest_encoder import PACKED, PADDED, manifest

Golden = dict[str, NDArray[Any]]
LENGTHS = [4, 2, 5, 3]


def tokenizer_json() -> str:
    """Words w1, w2, ... to ids 1, 2, ..."""
    vocabulary = {"[UNK]": 0} | {f"w{token}": token for token in range(1, sum(LENGTHS) + 1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    json: str = tokenizer.to_str()
    return json


def stacked(rows: list[NDArray[Any]], *, dtype: type = np.float32) -> NDArray[Any]:
    """Rows of different lengths, filled with 0."""
    longest = max(map(len, rows))
    return np.stack([np.pad(row, [(0, longest - len(row)), *[(0, 0)] * (row.ndim - 1)]) for row in rows]).astype(dtype)


def golden(task: bundle_pb2.Task, sources: list[Encoding]) -> Golden:
    """What the graphs of `graphs.py` compute."""
    inputs: Golden = {
        "input_ids": stacked([np.array(source.ids) for source in sources], dtype=np.int64),
        "token_type_ids": stacked([np.array(each.type_ids or [0] * len(each)) for each in sources], dtype=np.int64),
        "lengths": np.array([len(source) for source in sources]),
        "texts": np.array([" ".join(f"w{token}" for token in source.ids) for source in sources]),
    }
    if task == bundle_pb2.TASK_EMBED:
        raw = np.stack([expected(source) for source in sources])
        return inputs | {"embedding": raw, "unit_embedding": raw / np.linalg.norm(raw, axis=1, keepdims=True)}
    if task == bundle_pb2.TASK_RERANK:
        raw = np.array([sum(source.ids) for source in sources], np.float32)
    else:
        raw = stacked([np.array([[token, each.ids[0]] for token in each.ids], np.float32) for each in sources])
    return inputs | {"scores": raw, "probabilities": raw / 100}


class Made:
    """A bundle on disk that a test alters before it is loaded."""

    def __init__(
        self,
        folder: Path,
        task: bundle_pb2.Task = bundle_pb2.TASK_EMBED,
        kind: bundle_pb2.GraphKind = PACKED,
        *,
        quantized: bool = False,
    ) -> None:
        self.folder = folder / "1"
        self.folder.mkdir(parents=True)
        options = {"per_token": task == bundle_pb2.TASK_TAG}
        if kind == PACKED:
            options["scalar"] = task == bundle_pb2.TASK_RERANK
        self.graph = (packed_bytes if kind == PACKED else padded_bytes)(**options)
        self.manifest = manifest(task, kind, quantized=quantized)
        if task == bundle_pb2.TASK_EMBED:
            self.manifest.embedding.dimension = 4
        elif task == bundle_pb2.TASK_TAG:
            self.manifest.labels[:] = ["a", "b"]
        width = {bundle_pb2.TASK_EMBED: "4", bundle_pb2.TASK_TAG: "2"}.get(task)
        for tensor in self.manifest.variants[0].graphs[0].outputs:
            if width is not None:
                tensor.shape[-1] = width
        self.golden = golden(task, encodings(LENGTHS))
        self.tokenizer_json = tokenizer_json()

    def write(self) -> None:
        """Write it as it is now, rightly listed."""
        archive = io.BytesIO()
        np.savez(archive, allow_pickle=False, **self.golden)
        contents = {
            "model.onnx": self.graph,
            "tokenizer.json": self.tokenizer_json.encode(),
            "golden.npz": archive.getvalue(),
        }
        files = {}
        for name, content in contents.items():
            (self.folder / name).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            files[name] = bundle_pb2.File(name=name, sha256=digest, size_bytes=len(content))
        self.manifest.variants[0].graphs[0].file.CopyFrom(files.pop("model.onnx"))
        self.manifest.ClearField("files")
        self.manifest.files.extend(files.values())
        (self.folder / "manifest.json").write_text(json_format.MessageToJson(self.manifest), encoding="utf-8")

    def load(self) -> tuple[EncoderModel, str]:
        """The model that a lane would be given, and the task that it would be served under."""
        self.write()
        built = build_model(
            BundleLocation("small", 1, self.folder),
            self.manifest.variants[0].name,
            lambda name, graph: OnnxGraph.load(name, graph, 1),
        )
        assert isinstance(built.body, Subject)
        return built.body.model, task_name(built.manifest.task)

    def refusal(self) -> str:
        """Why it is not served; the message says where it lies."""
        with pytest.raises(BundleError) as caught:
            self.load()
        assert str(self.folder) in str(caught.value)
        return str(caught.value)


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        (bundle_pb2.TASK_EMBED, PACKED),
        (bundle_pb2.TASK_EMBED, PADDED),
        (bundle_pb2.TASK_TAG, PACKED),
        (bundle_pb2.TASK_TAG, PADDED),
        (bundle_pb2.TASK_RERANK, PACKED),
    ],
)
@pytest.mark.parametrize("quantized", [False, True])
def test_whole_bundle_serves(
    tmp_path: Path, task: bundle_pb2.Task, kind: bundle_pb2.GraphKind, *, quantized: bool
) -> None:
    """A bundle that is right is opened as what it is, and its lane's model answers."""
    model, served = Made(tmp_path, task, kind, quantized=quantized).load()
    assert served == bundle_pb2.Task.Name(task).removeprefix("TASK_").lower()
    assert model.packed == (kind == PACKED)
    (answer,) = model.run(encodings([3]), [True])
    assert answer.shape == {bundle_pb2.TASK_EMBED: (4,), bundle_pb2.TASK_TAG: (3, 2), bundle_pb2.TASK_RERANK: ()}[task]


@pytest.mark.parametrize("texts", [[], [""] * 4, ["w1 w2 w3 w4"]], ids=["none", "empty", "fewer"])
def test_golden_texts_may_be_left_out(tmp_path: Path, texts: list[str]) -> None:
    """Where the exporter had no texts, only tokens, the tokenizer is not held to any."""
    made = Made(tmp_path)
    made.golden["texts"] = np.array(texts, np.str_)
    made.load()


def test_configuration_beside_texts_is_not_passed_over(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of a model of texts it says which versions serve; what else it says is told to be without effect."""
    made = Made(tmp_path)
    config = made.folder.parent / "config.pbtxt"
    config.write_text(f'name: "{made.folder.parent.name}" version_policy {{ all {{ }} }}', encoding="utf-8")
    made.load()
    assert "model_config_without_effect" not in "".join(capfd.readouterr())
    config.write_text("max_batch_size: 8", encoding="utf-8")
    made.load()
    said = "".join(capfd.readouterr())
    assert "model_config_without_effect" in said
    assert "max_batch_size" in said


def test_golden_types_may_be_left_out(tmp_path: Path) -> None:
    """A bundle whose texts are all single ones need not list token types."""
    made = Made(tmp_path)
    sources = [Encoding(each.ids) for each in encodings(LENGTHS)]
    made.golden = golden(bundle_pb2.TASK_EMBED, sources)
    del made.golden["token_type_ids"]
    made.load()


def change(name: str, by: float, *, row: int = 1) -> Callable[[Made], None]:
    def alter(made: Made) -> None:
        made.golden[name][row, 0] += by

    return alter


def drop(name: str) -> Callable[[Made], None]:
    return lambda made: made.golden.__delitem__(name)


def set_golden(name: str, value: NDArray[Any]) -> Callable[[Made], None]:
    return lambda made: made.golden.__setitem__(name, value)


ALTERED: dict[str, tuple[Callable[[Made], None], str]] = {
    "other vector": (
        change("unit_embedding", 2e-3),
        "computes something else than the exporting one: largest differen",
    ),
    "other raw vector": (change("embedding", 0.1), "computes something else"),
    "nan": (change("unit_embedding", float("nan")), "computes something else"),
    "other token": (lambda made: made.golden["input_ids"].__setitem__((0, 0), 9), "tokenizer does not give the tokens"),
    "other text": (set_golden("texts", np.array(["w2"])), "does not give the tokens of golden text 0"),
    "no output": (drop("embedding"), "does not run on the golden inputs"),
    "no lengths": (drop("lengths"), "does not run on the golden inputs"),
    "no rows": (set_golden("lengths", np.array([], np.int64)), "does not run on the golden inputs: there are none"),
    "too few": (set_golden("unit_embedding", np.ones((2, 4), np.float32)), "does not run on the golden inputs"),
    "other shape": (set_golden("unit_embedding", np.ones((4, 9), np.float32)), "an answer of shape (4,) against (9,)"),
    "other graph": (lambda made: setattr(made, "graph", padded_bytes()), "the inputs are input_ids, attention_mask"),
    "no graph": (lambda made: setattr(made, "graph", b"no graph"), "onnxruntime cannot load"),
    "tensor": (
        lambda made: setattr(made.manifest, "task", bundle_pb2.TASK_TENSOR),
        "limits is set, and a model of tensors has none",
    ),
}


@pytest.mark.parametrize(("alter", "words"), ALTERED.values(), ids=ALTERED)
def test_altered_bundle_does_not_serve(tmp_path: Path, alter: Callable[[Made], None], words: str) -> None:
    """A bundle that computes something else here, or cannot be checked, is refused with the reason."""
    made = Made(tmp_path)
    alter(made)
    assert words in made.refusal()


def test_quantized_variant_is_held_to_its_certificate(tmp_path: Path) -> None:
    """Differences to fp32 are allowed down to the certificate's cosine less a little, and no further."""
    made = Made(tmp_path, quantized=True)
    made.golden["unit_embedding"][1] *= -1
    message = made.refusal()
    assert "variant 'int8' does not hold on this processor" in message
    assert "cosine of -1.0000, the certificate says 0.9900" in message
    near = Made(tmp_path / "near", quantized=True)
    near.golden["unit_embedding"][1, 0] += 0.1
    near.load()
    nothing = Made(tmp_path / "nothing", quantized=True)
    nothing.golden["unit_embedding"][1] = float("nan")
    assert "does not hold" in nothing.refusal()


@pytest.mark.parametrize(("quantized", "by", "serves"), [
    (False, 0.5e-5, True), (False, 3e-5, False), (True, 0.5e-4, True), (True, 3e-4, False),
])  # fmt: skip
def test_answer_that_depends_on_batch_mates_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, quantized: bool, by: float, serves: bool
) -> None:
    """A graph whose answer to a text changes with its company is refused, whatever its certificate says."""
    run = OnnxGraph.run

    def swayed(self: OnnxGraph, outputs: list[str], feeds: dict[str, NDArray[Any]], *rest: Any) -> list[NDArray[Any]]:  # noqa: ANN401 - passed on
        return [each + by * (len(feeds["text_starts"]) > 1) for each in run(self, outputs, feeds, *rest)]

    monkeypatch.setattr(OnnxGraph, "run", swayed)
    made = Made(tmp_path, quantized=quantized)
    if serves:
        made.load()
    else:
        assert "the answer to a text depends on its batch-mates" in made.refusal()
