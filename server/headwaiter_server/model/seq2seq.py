"""An encoder-decoder model: an encoder graph, a decoder-step graph, and the key/value cache between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from headwaiter_server.encoding import Encoding
from headwaiter_server.model.contract import Array, FloatArray, Graph, IntArray
from headwaiter_server.model.packing import Packing, pack, packs

Scalar = TypeVar("Scalar", bound=np.generic)

# Tokens of an encoder run. A longer one gains nothing on a processor core, and scores every token against every other
# one of the run. Measured with 3 layers of width 192: 64 to 96 are best.
_PACK_TOKENS = 96
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
        bos_id: int,
        eos_id: int,
    ) -> None:
        self._encoder = encoder
        self._decoder_step = decoder_step
        self._cache = cache
        self.bos_id = bos_id
        self.eos_id = eos_id

    def new_batch(self) -> Seq2SeqBatch:
        """An empty batch; see `DecodingBatch`."""
        return Seq2SeqBatch(self._encoder, self._decoder_step, self._cache)


class Seq2SeqBatch:
    """Rows of texts being decoded; implements `DecodingBatch`.

    The buffers are allocated with room to spare, and the graph is given the part of each tensor that is in use: a view,
    no copy. Self-attention's columns are written in place, one a step; the graph returns only the new column. Columns
    and rows beyond a row's own are stale but finite, and masked inside the graph.
    """

    def __init__(self, encoder: Graph, decoder_step: Graph, cache: CacheGeometry) -> None:
        self._encoder = encoder
        self._decoder_step = decoder_step
        self._cache = cache
        layers = range(cache.num_layers)
        self._cross_names = [name for i in layers for name in (f"cross_key_{i}", f"cross_value_{i}")]
        self._self_names = [name for i in layers for name in (f"self_key_{i}", f"self_value_{i}")]
        self._step_outputs = ["logits", *(name for i in layers for name in (f"new_key_{i}", f"new_value_{i}"))]
        self._rows = 0
        self._positions: IntArray = np.zeros(0, np.int64)
        self._source_lengths: IntArray = np.zeros(0, np.int64)
        # (key and value of each layer, rows, heads, source or capacity, head_dim)
        self._cross = self._allocate(0, 0)
        self._self = self._allocate(0, 0)

    def join(self, sources: Sequence[Encoding], rows: Sequence[int]) -> None:
        """Encode the texts into rows; see `DecodingBatch`."""
        encoded = [(members, *self._encode(sources[members])) for members in packs(sources, _PACK_TOKENS)]
        lengths = [len(source) for source in sources]
        places = np.array(rows)
        used_rows = max(self._rows, int(places.max()) + 1)
        self._fit(used_rows, max(*lengths, self._longest_source()), self._next_position())
        self._positions[places] = 0
        self._source_lengths[places] = lengths
        for members, packing, tensors in encoded:
            token_rows = places[members][packing.segment]
            for buffer, values in zip(self._cross, tensors, strict=True):
                buffer[token_rows, :, packing.position_ids] = values
        self._rows = used_rows

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
        feeds.update(zip(self._cross_names, self._cross[:, start:stop], strict=True))
        feeds.update(zip(self._self_names, self._self[:, start:stop], strict=True))
        logits, *columns = self._decoder_step.run(self._step_outputs, feeds)
        # The largest of numbers one of which is NaN is NaN. Logits may be minus infinity, for a token that must not be.
        _check_numbers(logits.max(axis=-1), *columns)
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
            self._positions[new] = self._positions[old]
            self._source_lengths[new] = self._source_lengths[old]
            self._cross[:, new] = self._cross[:, old]
            self._self[:, new] = self._self[:, old]
        self._rows = len(rows)

    def _encode(self, sources: Sequence[Encoding]) -> tuple[Packing, list[FloatArray]]:
        """Cross-attention keys and values of each token, `(tokens, heads, head_dim)` each."""
        packing = pack(sources)
        feeds = {
            "input_ids": packing.input_ids,
            "position_ids": packing.position_ids,
            "segment": packing.segment,
        }
        tensors = self._encoder.run(self._cross_names, feeds)
        _check_numbers(*tensors)
        return packing, tensors

    def _longest_source(self) -> int:
        return int(self._source_lengths[: self._rows].max(initial=0))

    def _next_position(self) -> int:
        return int(self._positions[: self._rows].max(initial=0)) + 1

    def _fit(self, rows: int, source: int, capacity: int) -> None:
        """Make room, or give room back when less than half of it is needed."""
        rows = _fitted_size(len(self._positions), rows, _ROW_STEP)
        if rows != len(self._positions):
            self._positions = _resized(self._positions, (rows,))
            self._source_lengths = _resized(self._source_lengths, (rows,))
        self._cross = self._fitted(self._cross, rows, source)
        self._self = self._fitted(self._self, rows, capacity)

    def _fitted(self, buffer: FloatArray, rows: int, columns: int) -> FloatArray:
        columns = _fitted_size(buffer.shape[3], columns, _COLUMN_STEP)
        if buffer.shape[1] == rows and buffer.shape[3] == columns:
            return buffer
        layers, _, heads, _, head_dim = buffer.shape
        return _resized(buffer, (layers, rows, heads, columns, head_dim))

    def _allocate(self, rows: int, columns: int) -> FloatArray:
        cache = self._cache
        return np.zeros((2 * cache.num_layers, rows, cache.num_heads, columns, cache.head_dim), np.float32)


def _check_numbers(*arrays: FloatArray) -> None:
    """Refuse what is no number before it is kept. Whoever runs several texts finds out whose it is by running fewer.

    Nothing times NaN is NaN: it would spread to the texts of the same encoder run, and from a column that is masked to
    the next text in the row.

    Raises:
        ValueError: One holds a NaN or an infinity.
    """
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("the model computed what is no finite number")


def _resized(array: NDArray[Scalar], shape: tuple[int, ...]) -> NDArray[Scalar]:
    """A copy with other sizes: cut where it shrinks, zeros where it grows.

    Zeros and not garbage: a masked column weighs nothing, but nothing times NaN is NaN.
    """
    resized = np.zeros(shape, array.dtype)
    shared = tuple(slice(min(sizes)) for sizes in zip(array.shape, shape, strict=True))
    resized[shared] = array[shared]
    return resized


def _fitted_size(have: int, need: int, step: int) -> int:
    rounded = -(-need // step) * step
    return rounded if need > have or 2 * rounded < have else have
