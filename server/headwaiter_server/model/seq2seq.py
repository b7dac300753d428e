"""An encoder-decoder model: an encoder graph, a decoder-step graph, and the key/value cache between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headwaiter_server.encoding import Encoding
from headwaiter_server.model.contract import Array, FloatArray, Graph, IntArray

# Buffers grow and shrink in these steps, so that a batch whose texts come and go rarely reallocates.
_ROW_STEP = 8
_COLUMN_STEP = 8


@dataclass(frozen=True)
class CacheGeometry:
    """Shape of the decoder's cache.

    Attributes:
        num_layers: Decoder layers.
        num_heads: Heads of each attention.
        head_dim: Width of a head, d_k.
    """

    num_layers: int
    num_heads: int
    head_dim: int


class Seq2SeqModel:
    """An encoder-decoder model; implements `GenerationModel`."""

    def __init__(
        self,
        encoder: Graph,
        decoder_step: Graph,
        cache: CacheGeometry,
        *,
        pad_id: int,
        bos_id: int,
        eos_id: int,
    ) -> None:
        self._encoder = encoder
        self._decoder_step = decoder_step
        self._cache = cache
        self._pad_id = pad_id
        self.bos_id = bos_id
        self.eos_id = eos_id

    def new_batch(self) -> Seq2SeqBatch:
        """An empty batch; see `DecodingBatch`."""
        return Seq2SeqBatch(self._encoder, self._decoder_step, self._cache, self._pad_id)


class Seq2SeqBatch:
    """Rows of texts being decoded; implements `DecodingBatch`.

    Every array is allocated with room to spare, rows first, and the graph is given the prefix that is in use: a view,
    no copy. Self-attention's columns are written in place, one a step; the graph returns only the new column. Columns
    and rows beyond a row's own are stale but finite, and masked inside the graph.
    """

    def __init__(self, encoder: Graph, decoder_step: Graph, cache: CacheGeometry, pad_id: int) -> None:
        self._encoder = encoder
        self._decoder_step = decoder_step
        self._cache = cache
        self._pad_id = pad_id
        layers = range(cache.num_layers)
        self._cross_names = [name for i in layers for name in (f"cross_key_{i}", f"cross_value_{i}")]
        self._self_names = [name for i in layers for name in (f"self_key_{i}", f"self_value_{i}")]
        self._step_outputs = ["logits", *(name for i in layers for name in (f"new_key_{i}", f"new_value_{i}"))]
        self._rows = 0
        self._positions: IntArray = np.zeros(0, np.int64)
        self._source_lengths: IntArray = np.zeros(0, np.int64)
        # (rows, heads, source or capacity, head_dim) each
        self._cross: list[FloatArray] = [self._allocate(0, 0) for _ in self._cross_names]
        self._self: list[FloatArray] = [self._allocate(0, 0) for _ in self._self_names]

    def join(self, sources: Sequence[Encoding]) -> None:
        """Encode the texts and add their rows; see `DecodingBatch`."""
        lengths = np.array([len(source) for source in sources], np.int64)
        longest = int(lengths.max())
        ids = np.full((len(sources), longest), self._pad_id, np.int64)
        for row, source in enumerate(sources):
            ids[row, : len(source)] = source.ids
        encoded = self._encoder.run(self._cross_names, {"source_ids": ids, "source_lengths": lengths})

        first, rows = self._rows, self._rows + len(sources)
        self._fit(rows, max(longest, self._longest_source()), self._next_position())
        self._positions[first:rows] = 0
        self._source_lengths[first:rows] = lengths
        for buffer, values in zip(self._cross, encoded, strict=True):
            buffer[first:rows, :, :longest] = values
        self._rows = rows

    def step(self, tokens: IntArray, start: int, stop: int) -> FloatArray:
        """Decode one token of some rows; see `DecodingBatch`."""
        # Room for every row, also those that do not step now: a shrunken buffer must not lose their columns.
        self._fit(self._rows, self._longest_source(), self._next_position())
        positions = self._positions[start:stop]
        feeds: dict[str, Array] = {
            "token": tokens,
            "position": positions,
            "source_lengths": self._source_lengths[start:stop],
        }
        for name, buffer in zip(self._cross_names, self._cross, strict=True):
            feeds[name] = buffer[start:stop]
        for name, buffer in zip(self._self_names, self._self, strict=True):
            feeds[name] = buffer[start:stop]
        logits, *columns = self._decoder_step.run(self._step_outputs, feeds)
        rows = np.arange(start, stop)
        for buffer, column in zip(self._self, columns, strict=True):
            buffer[rows, :, positions] = column
        self._positions[start:stop] += 1
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Reorder and free rows; see `DecodingBatch`."""
        moves = [(new, old) for new, old in enumerate(rows) if new != old]
        if moves:
            new, old = (list(side) for side in zip(*moves, strict=True))
            arrays: list[Array] = [self._positions, self._source_lengths, *self._cross, *self._self]
            for array in arrays:
                array[new] = array[old]
        self._rows = len(rows)

    def _longest_source(self) -> int:
        return int(self._source_lengths[: self._rows].max(initial=0))

    def _next_position(self) -> int:
        return int(self._positions[: self._rows].max(initial=0)) + 1

    def _fit(self, rows: int, source: int, capacity: int) -> None:
        """Make room, or give room back when less than half is in use."""
        if _needs_resize(len(self._positions), rows, _ROW_STEP):
            self._positions = _resized(self._positions, (_rounded(rows, _ROW_STEP),), self._rows)
            self._source_lengths = _resized(self._source_lengths, (_rounded(rows, _ROW_STEP),), self._rows)
        self._cross = [self._fitted(each, rows, source) for each in self._cross]
        self._self = [self._fitted(each, rows, capacity) for each in self._self]

    def _fitted(self, buffer: FloatArray, rows: int, columns: int) -> FloatArray:
        have_rows, _, have_columns, _ = buffer.shape
        new_rows = _rounded(rows, _ROW_STEP) if _needs_resize(have_rows, rows, _ROW_STEP) else have_rows
        new_columns = (
            _rounded(columns, _COLUMN_STEP) if _needs_resize(have_columns, columns, _COLUMN_STEP) else have_columns
        )
        if (new_rows, new_columns) == (have_rows, have_columns):
            return buffer
        resized = self._allocate(new_rows, new_columns)
        shared = min(have_columns, new_columns)
        resized[: self._rows, :, :shared] = buffer[: self._rows, :, :shared]
        return resized

    def _allocate(self, rows: int, columns: int) -> FloatArray:
        # Zeros and not empty: a masked column weighs nothing, but nothing times NaN is NaN.
        return np.zeros((rows, self._cache.num_heads, columns, self._cache.head_dim), np.float32)


def _resized(array: IntArray, shape: tuple[int, ...], rows: int) -> IntArray:
    resized = np.zeros(shape, array.dtype)
    resized[:rows] = array[:rows]
    return resized


def _rounded(size: int, step: int) -> int:
    return -(-size // step) * step


def _needs_resize(have: int, need: int, step: int) -> bool:
    return need > have or 2 * _rounded(need, step) < have
