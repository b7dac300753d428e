"""What a certified fp32 graph hands on to those who make smaller variants of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray
from tokenizers import Tokenizer

from headwaiter_export.architectures import Options
from headwaiter_export.encoders.layout import Layout, Tokens
from headwaiter_export.progress import Progress
from headwaiter_export.quantization.judge import Judge
from headwaiter_export.quantization.variant import Source, make_variant
from headwaiter_export.spec import GraphSpec


@dataclass(frozen=True)
class Certified:
    """A written fp32 graph that has passed the gate, with what it takes to judge others like it.

    Attributes:
        folder: The bundle's folder while it is filled; a variant writes its own file there.
        spec: The graph's file and signature.
        model: The very bytes that were certified.
        task: What the model does; the first output is the raw one, the second is on a fixed scale.
        layout: How it takes its texts.
        tokenizer: Neither pads nor truncates.
        max_tokens: Tokens of the longest text.
        texts: Real texts that fit the model, many or none.
        points: The graph's certificate.
        remark: Which kind of graph it is, and why.
    """

    folder: Path
    spec: GraphSpec
    model: bytes
    task: bundle_pb2.Task
    layout: Layout
    tokenizer: Tokenizer
    max_tokens: int
    texts: list[str]
    points: list[bundle_pb2.ParityPoint]
    remark: str

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Texts as the model reads them; none is shortened, so they may be too long for it."""
        return [Tokens(each.ids, each.type_ids) for each in self.tokenizer.encode_batch(list(texts))]

    def pairs(self, texts: Sequence[str]) -> list[Tokens]:
        """Each text with the one before it, as a reranker reads a query and a text."""
        pairs = list(zip([*texts[-1:], *texts[:-1]], texts, strict=True))
        return [Tokens(each.ids, each.type_ids) for each in self.tokenizer.encode_batch(pairs)]

    def feeds(self, texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """The inputs of one run on `texts`."""
        return self.layout.feeds(self.tokens(texts))


def quantized_variant(certified: Certified, options: Options, progress: Progress) -> bundle_pb2.Variant | None:
    """The int8 variant, if it is asked for: its file in the bundle's folder, and its entry for the manifest.

    Raises:
        ExportError: The variant cannot be made as asked for; see `quantization.variant.make_variant`.
    """
    if options.int8 is None:
        return None
    source = Source(
        folder=certified.folder,
        spec=certified.spec,
        judge=Judge(certified.task, certified.layout),
        read=certified.pairs if certified.task == bundle_pb2.TASK_RERANK else certified.tokens,
        max_tokens=certified.max_tokens,
    )
    return make_variant(source, options.int8, progress)
