"""Texts as token ids, and the feeds that a packed or a padded graph takes them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray

from headwaiter_export.spec import GraphSpec, Tensor
from headwaiter_export.texts import padded

MODEL_FILE = "model.onnx"


@dataclass(frozen=True)
class Tokens:
    """One text as the model reads it.

    Attributes:
        ids: Token ids, special tokens included.
        types: Token types, as many.
    """

    ids: list[int]
    types: list[int]


@dataclass(frozen=True)
class Layout:
    """How a graph takes its texts.

    Attributes:
        kind: Packed or padded.
        token_types: Whether the model reads token types.
        pad_id: Fills rows up to the longest.
    """

    kind: bundle_pb2.GraphKind
    token_types: bool
    pad_id: int

    def feeds(self, texts: Sequence[Tokens]) -> dict[str, NDArray[np.int64]]:
        """The inputs of one run."""
        lengths = np.array([len(text.ids) for text in texts])
        if self.kind == bundle_pb2.GRAPH_KIND_PACKED:
            feeds = {
                "input_ids": np.concatenate([np.array(text.ids, np.int64) for text in texts]),
                "position_ids": np.concatenate([np.arange(length) for length in lengths]),
                "segment": np.repeat(np.arange(len(texts)), lengths),
                "text_starts": np.cumsum(lengths) - lengths,
            }
            if self.token_types:
                feeds["token_type_ids"] = np.concatenate([np.array(text.types, np.int64) for text in texts])
            return feeds
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        feeds = {"input_ids": padded([text.ids for text in texts], self.pad_id), "attention_mask": mask}
        if self.token_types:
            feeds["token_type_ids"] = padded([text.types for text in texts], 0)
        return feeds

    def split(self, output: NDArray[Any], texts: Sequence[Tokens], *, by_token: bool) -> list[NDArray[Any]]:
        """One run's output, text by text: a row for each, or, by token, its tokens' rows."""
        if not by_token:
            return list(output)
        lengths = [len(text.ids) for text in texts]
        if self.kind == bundle_pb2.GRAPH_KIND_PACKED:
            return np.split(output, np.cumsum(lengths)[:-1])
        return [row[:length] for row, length in zip(output, lengths, strict=True)]

    def spec(self, task: bundle_pb2.Task, outputs: Sequence[str], width: int) -> GraphSpec:
        """Signature of the graph; `width` is the vectors' dimension or the number of labels."""
        packed = self.kind == bundle_pb2.GRAPH_KIND_PACKED
        names = ("input_ids", "position_ids", "segment") if packed else ("input_ids", "attention_mask")
        token_axes: tuple[str, ...] = ("tokens",) if packed else ("texts", "length")
        inputs = [Tensor(name, "int64", token_axes) for name in names]
        if packed:
            inputs.append(Tensor("text_starts", "int64", ("texts",)))
        if self.token_types:
            inputs.append(Tensor("token_type_ids", "int64", token_axes))
        axes: tuple[str | int, ...] = ("texts", width)
        if task == bundle_pb2.TASK_RERANK:
            axes = ("texts",)
        elif task == bundle_pb2.TASK_TAG:
            axes = (*token_axes, width)
        return GraphSpec(
            role=bundle_pb2.GRAPH_ROLE_MODEL,
            file_name=MODEL_FILE,
            inputs=tuple(inputs),
            outputs=tuple(Tensor(name, "float32", axes) for name in outputs),
        )
