"""The bundle of a small decoder-only model, written by hand."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.lifecycle.building import BuiltModel, build_model
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.model.onnx import OnnxGraph
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from .cached_graphs import VOCAB, decoder_bytes, small_model
from .cached_texts import generate
from .generators import manifest

SOURCES = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11, 12], [13, 14]]
_TOKENS = 10


class MadeGenerator:
    """A bundle on disk that a test alters before it is loaded.

    Attributes:
        location: Where it lies.
        manifest: Its manifest.
        graph: Its graph.
        golden: Its golden arrays.
    """

    def __init__(self, folder: Path, *, quantized: bool = False) -> None:
        self.location = BundleLocation("small", 1, folder / "small" / "1")
        self.location.folder.mkdir(parents=True)
        self.manifest = manifest(encoder=False, quantized=quantized)
        self.graph = decoder_bytes()
        self.golden = _golden()

    def write(self) -> None:
        """Put what it is now on disk."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=True, **self.golden)
        graph = self.manifest.variants[0].graphs[0].file
        del self.manifest.files[:]
        for name, content in (("golden.npz", buffer.getvalue()), ("tokenizer.json", _tokenizer()), ("g", self.graph)):
            file = graph if name == "g" else self.manifest.files.add()
            file.name, file.sha256, file.size_bytes = name, hashlib.sha256(content).hexdigest(), len(content)
            (self.location.folder / name).write_bytes(content)
        (self.location.folder / "manifest.json").write_text(json_format.MessageToJson(self.manifest))

    def build(self) -> BuiltModel:
        """Write it, and build its model."""
        self.write()
        variant = self.manifest.variants[0].name
        return build_model(self.location, variant, lambda name, graph, **_: OnnxGraph.load(name, graph, 1))


def _golden() -> dict[str, NDArray[Any]]:
    model = small_model()
    tokens = generate(model, SOURCES, _TOKENS)
    longest = max(map(len, SOURCES))
    return {
        "source_ids": np.array([source + [0] * (longest - len(source)) for source in SOURCES]),
        "source_lengths": np.array([len(source) for source in SOURCES]),
        "tokens": np.array(tokens),
        "token_counts": np.full(len(SOURCES), _TOKENS),
        "first_logits": np.stack([model.new_rows(1).read(0, source, 0) for source in SOURCES]),
    }


def _tokenizer() -> bytes:
    tokenizer = Tokenizer(models.WordLevel({f"w{token}": token for token in range(VOCAB)}, unk_token="w3"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    text: str = tokenizer.to_str()
    return text.encode()


def quantized_points(it: bundle_pb2.Manifest) -> bundle_pb2.QualityPoint:
    """What the certificate says of the only texts that it speaks of."""
    return it.variants[0].quantization.points[0]
