"""The graphs on onnxruntime, with the cache in place: what a server does, in its smallest form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from headwaiter_export.errors import GraphRejectedError
from headwaiter_export.generation.graph import CacheShape
from headwaiter_export.runtime import Graph, first_line

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

# Fills places that do not count, so that one who looked there would be seen.
_GARBAGE = 1e4


class CachedRows:
    """Rows of texts in one cache, each at its own place.

    Attributes:
        kept: Keys and values of each layer, `(rows, heads, capacity, head_dim)`, by the names of the graph.
        lengths: Tokens that each row has read.
    """

    def __init__(self, graph: Graph, shape: CacheShape, rows: int, capacity: int) -> None:
        """Take a loaded graph, and make an empty cache.

        Args:
            graph: The graph.
            shape: What it keeps of every token.
            rows: Texts.
            capacity: Most tokens of one of them.
        """
        self._graph = graph
        self.kept = {name: _garbage(shape, rows, capacity) for name in shape.names()}
        self.lengths: IntArray = np.zeros(rows, np.int64)
        self._sources: dict[str, NDArray[np.int64] | FloatArray] = {}

    def attend_to(self, lengths: IntArray, cross: dict[str, FloatArray]) -> None:
        """Give every row its source: its length, and what an encoder has made of it."""
        self._sources = {"source_lengths": lengths, **cross}

    def read(self, tokens: IntArray, first: int) -> FloatArray:
        """Read tokens into neighbouring rows.

        Args:
            tokens: `(rows, tokens)`: what comes behind what the rows hold.
            first: The first of the rows.

        Returns:
            Logits of what follows, `(rows, vocab)`.

        Raises:
            GraphRejectedError: onnxruntime fails.
        """
        rows = slice(first, first + len(tokens))
        binding = self._graph.session.io_binding()
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(tokens))
        binding.bind_cpu_input("past_lengths", self.lengths[rows])
        for name, values in self._sources.items():
            binding.bind_cpu_input(name, values[rows])
        binding.bind_output("logits")
        for name, buffer in self.kept.items():
            place = onnxruntime.OrtValue.ortvalue_from_numpy(buffer[rows])
            binding.bind_ortvalue_input(name, place)
            binding.bind_ortvalue_output(f"new_{name}", place)
        try:
            self._graph.session.run_with_iobinding(binding)
        except Exception as error:
            raise GraphRejectedError(
                f"{self._graph.file_name}: onnxruntime does not run it on {tokens.shape} tokens: {first_line(error)}"
            ) from error
        self.lengths[rows] += tokens.shape[1]
        logits: FloatArray = binding.get_outputs()[0].numpy()
        return logits

    def prefill(self, row: int, ids: Sequence[int], chunk: int) -> FloatArray:
        """Read a text into a row, in pieces; returns the logits of what follows it, `(vocab,)`."""
        logits: FloatArray = np.zeros((1, 0), np.float32)
        for start in range(0, len(ids), chunk):
            logits = self.read(np.array([ids[start : start + chunk]], np.int64), row)
        last: FloatArray = logits[0]
        return last


class Graphs(Protocol):
    """The graphs of a model that generates."""

    def begin(self, texts: Sequence[Sequence[int]], room: int, chunk: int) -> tuple[CachedRows, FloatArray]:
        """Read texts, a row each.

        Args:
            texts: Their tokens.
            room: Tokens that may be generated for each.
            chunk: Tokens of a text that are read at one time, where that may be chosen.

        Returns:
            The rows, and the logits of what follows each text, `(texts, vocab)`.
        """
        ...


@dataclass(frozen=True)
class DecoderOnly:
    """One graph, which goes on with a text; implements `Graphs`."""

    decoder: Graph
    shape: CacheShape

    def begin(self, texts: Sequence[Sequence[int]], room: int, chunk: int) -> tuple[CachedRows, FloatArray]:
        """See `Graphs`."""
        rows = CachedRows(self.decoder, self.shape, len(texts), max(map(len, texts)) + room)
        return rows, np.stack([rows.prefill(row, ids, chunk) for row, ids in enumerate(texts)])


@dataclass(frozen=True)
class EncoderDecoder:
    """Two graphs, the second of which begins anew beside the text; implements `Graphs`.

    Attributes:
        encoder: The first.
        decoder: The second.
        shape: What it keeps of every token.
        start_id: What it begins with.
    """

    encoder: Graph
    decoder: Graph
    shape: CacheShape
    start_id: int

    def begin(self, texts: Sequence[Sequence[int]], room: int, chunk: int) -> tuple[CachedRows, FloatArray]:
        """See `Graphs`; the texts are encoded in one run."""
        del chunk  # a source is read whole: its tokens look both ways
        lengths = np.array([len(text) for text in texts])
        longest = int(lengths.max())
        rows = CachedRows(self.decoder, self.shape, len(texts), room)
        segment = np.repeat(np.arange(len(texts)), lengths)
        positions = np.concatenate([np.arange(length) for length in lengths])
        feeds = {
            "input_ids": np.concatenate([np.array(text, np.int64) for text in texts]),
            "position_ids": positions,
            "segment": segment,
        }
        cross = {}
        for name, values in self.encoder.run(feeds).items():  # (tokens, heads, head_dim)
            # One column more than the longest needs: a graph must not take the last for a token.
            cross[name] = _garbage(self.shape, len(texts), longest + 1)
            cross[name][segment, :, positions] = values
        rows.attend_to(lengths, cross)
        return rows, rows.read(np.full((len(texts), 1), self.start_id), 0)


def generate(
    graphs: Graphs, texts: Sequence[Sequence[int]], *, limit: int, ends: frozenset[int], chunk: int
) -> tuple[list[list[int]], list[FloatArray]]:
    """Generate from texts together, greedily.

    Args:
        graphs: The model.
        texts: Their tokens.
        limit: Most new tokens of each.
        ends: Tokens that end a text.
        chunk: See `Graphs.begin`.

    Returns:
        The new tokens of each text, with the one that ends it; and the logits that they were chosen from,
        `(new tokens, vocab)`.
    """
    rows, logits = graphs.begin(texts, limit, chunk)
    seen = [logits]
    chosen = [logits.argmax(-1)]
    over = np.isin(chosen[0], list(ends))
    while len(chosen) < limit and not over.all():
        seen.append(rows.read(chosen[-1][:, np.newaxis], 0))
        chosen.append(seen[-1].argmax(-1))
        over |= np.isin(chosen[-1], list(ends))
    tokens = np.stack(chosen, 1)  # (texts, steps)
    counts = [next((at + 1 for at, token in enumerate(row) if token in ends), len(row)) for row in tokens.tolist()]
    steps = np.stack(seen, 1)  # (texts, steps, vocab)
    return (
        [row[:count].tolist() for row, count in zip(tokens, counts, strict=True)],
        [row[:count] for row, count in zip(steps, counts, strict=True)],
    )


def _garbage(shape: CacheShape, rows: int, columns: int) -> FloatArray:
    return np.full((rows, shape.num_heads, columns, shape.head_dim), _GARBAGE, np.float32)
