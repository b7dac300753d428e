"""The graphs on onnxruntime, with the cache in place: what a server does, in its smallest form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from headwaiter_export.errors import GraphRejectedError
from headwaiter_export.generation.signature import CacheShape
from headwaiter_export.runtime import Graph, first_line

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

# Fills places that do not count, so that one who looked there would be seen.
_GARBAGE = 1e4
# Columns come in steps, as in a server: products over any number of them may round otherwise than over eights.
_COLUMN_STEP = 8


class CachedRows:
    """Rows of texts in one cache, each at its own place.

    Attributes:
        kept: Keys and values of each layer, `(rows, heads, capacity, head_dim)`, by the names of the graph.
        lengths: Tokens that each row has read.
        seen: Of each run the outputs that are watched.
    """

    def __init__(self, graph: Graph, shape: CacheShape, rows: int, capacity: int, watched: Sequence[str] = ()) -> None:
        """Take a loaded graph, and make an empty cache.

        Args:
            graph: The graph.
            shape: What it keeps of every token.
            rows: Texts.
            capacity: Most tokens of one of them.
            watched: Further outputs to keep.
        """
        self._graph = graph
        self.kept = {name: _garbage(shape, rows, capacity) for name in shape.names()}
        self.lengths: IntArray = np.zeros(rows, np.int64)
        self.seen: list[dict[str, FloatArray]] = []
        self._watched = list(watched)
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
        found = self.read_all(tokens, first, ["logits", *self._watched])
        logits = found.pop("logits")
        if found:
            self.seen.append(found)
        return logits

    def read_all(self, tokens: IntArray, first: int, names: Sequence[str]) -> dict[str, FloatArray]:
        """The same, with any of the graph's outputs that are not the cache."""
        rows = slice(first, first + len(tokens))
        binding = self._graph.session.io_binding()
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(tokens))
        binding.bind_cpu_input("past_lengths", self.lengths[rows])
        for name, values in self._sources.items():
            binding.bind_cpu_input(name, values[rows])
        for name in names:
            binding.bind_output(name)
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
        # Values lie in the order of the names, those of the cache behind them.
        found = binding.get_outputs()[: len(names)]
        return {name: value.numpy() for name, value in zip(names, found, strict=True)}

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
    """One graph, which goes on with a text; implements `Graphs`.

    Attributes:
        decoder: It.
        shape: What it keeps of every token.
        watched: Outputs that its rows keep.
    """

    decoder: Graph
    shape: CacheShape
    watched: tuple[str, ...] = ()

    def begin(self, texts: Sequence[Sequence[int]], room: int, chunk: int) -> tuple[CachedRows, FloatArray]:
        """See `Graphs`."""
        rows = CachedRows(self.decoder, self.shape, len(texts), max(map(len, texts)) + room, self.watched)
        return rows, np.stack([rows.prefill(row, ids, chunk) for row, ids in enumerate(texts)])


@dataclass(frozen=True)
class EncoderDecoder:
    """Two graphs, the second of which begins anew beside the text; implements `Graphs`.

    Attributes:
        encoder: The first.
        decoder: The second.
        shape: What it keeps of every token.
        start_id: What it begins with.
        watched: Outputs of the second that its rows keep.
    """

    encoder: Graph
    decoder: Graph
    shape: CacheShape
    start_id: int
    watched: tuple[str, ...] = ()

    def begin(self, texts: Sequence[Sequence[int]], room: int, chunk: int) -> tuple[CachedRows, FloatArray]:
        """See `Graphs`; the texts are encoded in one run."""
        del chunk  # a source is read whole: its tokens look both ways
        rows = CachedRows(self.decoder, self.shape, len(texts), room, self.watched)
        feeds = packed(texts)
        lengths = np.array([len(text) for text in texts])
        # At least one column more than the longest needs: a graph must not take the last for a token.
        columns = (int(lengths.max()) // _COLUMN_STEP + 1) * _COLUMN_STEP
        cross = {}
        for name, values in self.encoder.run(feeds).items():  # (tokens, heads, head_dim)
            cross[name] = _garbage(self.shape, len(texts), columns)
            cross[name][feeds["segment"], :, feeds["position_ids"]] = values
        rows.attend_to(lengths, cross)
        return rows, rows.read(np.full((len(texts), 1), self.start_id), 0)


def packed(texts: Sequence[Sequence[int]]) -> dict[str, IntArray]:
    """Texts end to end, as an encoder's graph takes them."""
    lengths = [len(text) for text in texts]
    return {
        "input_ids": np.concatenate([np.array(text, np.int64) for text in texts]),
        "position_ids": np.concatenate([np.arange(length) for length in lengths]),
        "segment": np.repeat(np.arange(len(texts)), lengths),
    }


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
