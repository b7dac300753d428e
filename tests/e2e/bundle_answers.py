"""What a bundle's graph answers to one text, by onnxruntime alone and nothing of the server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

Values = NDArray[np.float32]


@dataclass(frozen=True)
class BundleAnswers:
    """One bundle's tokenizer and graph."""

    tokenizer: Tokenizer
    session: onnxruntime.InferenceSession
    manifest: dict[str, Any]

    @classmethod
    def of(cls, folder: Path, variant: str = "fp32") -> BundleAnswers:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        manifest = json.loads((folder / "manifest.json").read_text())
        (graph,) = [each["graphs"][0]["file"]["name"] for each in manifest["variants"] if each["name"] == variant]
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", "1")  # else int8 is not exact without VNNI
        session = onnxruntime.InferenceSession(str(folder / graph), options, providers=["CPUExecutionProvider"])
        return cls(tokenizer, session, manifest)

    @property
    def limit(self) -> int:
        """Most tokens of a text."""
        return int(self.manifest["limits"]["max_source_tokens"])

    def to(self, text: str, second: str | None = None, *, output: str) -> Values:
        """One output for one text, or pair, alone; cut at the model's limit."""
        encoded = self.tokenizer.encode(text, second)
        ids, types = encoded.ids, encoded.type_ids
        if len(ids) > self.limit:
            ids, types = [*ids[: self.limit - 1], ids[-1]], types[: self.limit]
        length = len(ids)
        flat = {
            "input_ids": ids,
            "token_type_ids": types,
            "position_ids": list(range(length)),
            "segment": [0] * length,
            "attention_mask": [1] * length,
        }
        packed = self.manifest["graph_kind"] == "GRAPH_KIND_PACKED"
        feeds = {}
        for each in self.session.get_inputs():
            feed = np.array([0] if each.name == "text_starts" else flat[each.name], np.int64)
            feeds[each.name] = feed if packed else feed[None]
        (answer,) = self.session.run([output], feeds)
        values: Values = np.asarray(answer)
        if packed and self.manifest["task"] == "TASK_TAG":
            return values
        return values[0]  # type: ignore[no-any-return]  # a row of an array of floats
