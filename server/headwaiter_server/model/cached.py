"""Models that generate, over graphs that write keys and values in place: decoder-only ones, and those with an encoder.

A step hands the graph addresses and no bytes: tokens, places and logits lie in buffers that are made once, keys and
values where the graph has left them. What was bound for some neighbouring rows is kept for the next time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from headwaiter_server.encoding import Encoding
from headwaiter_server.model.contract import Array, BindableGraph, BoundGraph, FloatArray, Graph, IntArray
from headwaiter_server.model.kv_cache import KEPT_ROW_BYTES, CacheGeometry, KeyValueMemory
from headwaiter_server.model.sources import Sources

# Runs of neighbouring rows that stay bound, of which each takes some kilobytes.
_MOST_BOUND: Final = 256


class CachedModel:
    """A model that generates; implements `GenerationModel`."""

    def __init__(
        self,
        decoder: BindableGraph,
        encoder: Graph | None,
        cache: CacheGeometry,
        *,
        vocab_size: int,
        max_total_tokens: int,
        start_id: int | None,
        end_ids: frozenset[int],
        max_run_tokens: int | None = None,
    ) -> None:
        """Put a model together.

        Args:
            decoder: The graph that steps.
            encoder: What makes of sources what the decoder attends to; None for a decoder-only model.
            cache: Shape of what is kept of each token.
            vocab_size: Tokens it may choose from.
            max_total_tokens: Most tokens of a row.
            start_id: What the decoder begins with; None for a decoder-only model.
            end_ids: Tokens that end a text.
            max_run_tokens: Tokens up to which sources that are encoded together leave one another alone; None for any
                number.
        """
        self._decoder = decoder
        self._encoder = encoder
        self._cache = cache
        self._max_run_tokens = max_run_tokens
        self.vocab_size = vocab_size
        self.max_total_tokens = max_total_tokens
        self.start_id = start_id
        self.end_ids = end_ids
        self.token_bytes = cache.token_bytes
        self.source_token_bytes = 0 if encoder is None else cache.token_bytes

    def text_bytes(self, longest_source: int) -> int:
        """What a row keeps of the longest text.

        Args:
            longest_source: Tokens of a source.
        """
        return self.max_total_tokens * self.token_bytes + longest_source * self.source_token_bytes

    def idle_row_bytes(self, longest_source: int) -> int:
        """What a row takes at most beside what it keeps of its text: answers, begun pages, and what nobody needs.

        Args:
            longest_source: Tokens of a source.
        """
        kept = [self.max_total_tokens * self.token_bytes]
        answers = self.vocab_size
        if self._encoder is not None:
            kept.append(longest_source * self.source_token_bytes)
            answers += self._cache.num_layers * self._cache.num_heads * longest_source
        memory = sum(min(KEPT_ROW_BYTES, most) + self._cache.page_bytes for most in kept)
        return memory + answers * np.float32().itemsize

    def capacity(self, room_bytes: int) -> int:
        """Tokens of a row for which so much memory is enough."""
        return max(1, min(self.max_total_tokens, room_bytes // self.token_bytes))

    def new_rows(self, rows: int, capacity: int | None = None) -> CachedRows:
        """Rows in memory of their own; see `GenerationModel`."""
        places = self.max_total_tokens if capacity is None else min(capacity, self.max_total_tokens)
        sources = None if self._encoder is None else Sources(self._encoder, self._cache, rows, self._max_run_tokens)
        return CachedRows(self._decoder, self._cache, sources, rows, places, self.vocab_size)


class CachedRows:
    """Rows of texts that are generated together; implements `GenerationRows`."""

    def __init__(
        self,
        decoder: BindableGraph,
        cache: CacheGeometry,
        sources: Sources | None,
        rows: int,
        capacity: int,
        vocab_size: int,
    ) -> None:
        """Take address space for rows; see `CachedModel.new_rows`."""
        self.rows = rows
        self.capacity = capacity
        self.copied_bytes = 0
        self.run_seconds = 0.0
        self._decoder = decoder
        self._cache = cache
        self._sources = sources
        self._memory = KeyValueMemory(cache, rows, capacity)
        self._tokens: IntArray = np.zeros((rows, 1), np.int64)
        self._places: IntArray = np.zeros(rows, np.int64)
        self._logits: FloatArray = np.empty((rows, vocab_size), np.float32)
        self._weights = self._new_weights()
        # Places that each row had written, before its last run, since its memory was last given back.
        self._touched: IntArray = np.zeros(rows, np.int64)
        self._bound: dict[tuple[int, int], BoundGraph] = {}

    def encode(self, sources: Sequence[Encoding], rows: Sequence[int]) -> None:
        """Encode texts, once; see `GenerationRows`."""
        if self._sources is None:
            raise ValueError("this model has no encoder")
        began = time.perf_counter()
        encoded = self._sources.run(sources)
        self.run_seconds += time.perf_counter() - began
        self.copied_bytes += self._sources.put(encoded, sources, rows)
        if self._sources.columns != self._weights.shape[3]:  # they were laid anew
            self._weights = self._new_weights()
            self._bound.clear()

    def read(self, row: int, tokens: Sequence[int], place: int) -> FloatArray:
        """Read neighbouring tokens of one text; see `GenerationRows`."""
        end = place + len(tokens)
        if not 0 <= place < end <= self.capacity:
            raise ValueError(f"tokens at the places {place} to {end} of a row that has {self.capacity}")
        ids = np.array([tokens], np.int64)
        self._places[row] = place
        self._touched[row] = max(self._touched[row], end)
        bound = self._binding(row, 1)
        bound.give("input_ids", ids)
        try:
            self._run(bound)
        finally:
            bound.give("input_ids", self._tokens[row : row + 1])
        logits: FloatArray = self._checked(slice(row, row + 1))[0]
        return logits

    def step(self, tokens: IntArray, places: IntArray, start: int) -> FloatArray:
        """Read one token in each of some neighbouring rows; see `GenerationRows`."""
        stop = start + len(tokens)
        # The graph writes where it is told to, past the end of the memory as well.
        if int(places.view(np.uint64).max()) >= self.capacity:  # below 0, too
            raise ValueError(f"a token at a place beyond the {self.capacity} that a row has")
        self._tokens[start:stop, 0] = tokens
        self._places[start:stop] = places
        self._run(self._binding(start, len(tokens)))
        return self._checked(slice(start, stop))

    def copy(self, source: int, target: int, first: int, stop: int) -> None:
        """Have one row go on as another; see `GenerationRows`."""
        if self._sources is not None:
            self.copied_bytes += self._sources.copy(source, target)
        for tensor in self._memory.tensors:
            tensor[target, :, first:stop] = tensor[source, :, first:stop]
        self._touched[target] = max(self._touched[target], stop)
        self.copied_bytes += (stop - first) * self._cache.token_bytes

    def attention(self, row: int) -> FloatArray:
        """What the last token that a row has read attends to in its source; see `GenerationRows`."""
        if self._sources is None:
            raise ValueError("this model has no encoder")
        return self._weights[row, :, :, : self._sources.length(row)].copy()

    def free(self, row: int) -> None:
        """Say that a row's tokens are not needed any more; see `GenerationRows`."""
        self._touched[row] = max(self._touched[row], self._places[row] + 1)
        if int(self._touched[row]) * self._cache.token_bytes > KEPT_ROW_BYTES:
            self._memory.give_back(row)
            self._touched[row] = 0
            self._places[row] = 0
        if self._sources is not None:
            self._sources.free(row)

    def _run(self, bound: BoundGraph) -> None:
        began = time.perf_counter()
        bound.run()
        self.run_seconds += time.perf_counter() - began

    def _new_weights(self) -> FloatArray:
        """Room for what each row attends to in its source."""
        columns = 0 if self._sources is None else self._sources.columns
        return np.empty((self.rows, self._cache.num_layers, self._cache.num_heads, columns), np.float32)

    def _binding(self, start: int, rows: int) -> BoundGraph:
        """The graph over neighbouring rows."""
        bound = self._bound.get((start, rows))
        if bound is None:
            if len(self._bound) >= _MOST_BOUND:
                self._bound.clear()
            bound = self._bound[start, rows] = self._bind(slice(start, start + rows))
        return bound

    def _bind(self, rows: slice) -> BoundGraph:
        kept = {name: tensor[rows] for name, tensor in zip(self._cache.names(), self._memory.tensors, strict=True)}
        inputs: dict[str, Array] = {"input_ids": self._tokens[rows], "past_lengths": self._places[rows], **kept}
        outputs = {"logits": self._logits[rows], **{f"new_{name}": tensor for name, tensor in kept.items()}}
        if self._sources is not None:
            inputs |= self._sources.inputs(rows)
            # It is computed in any case, and to write it here takes no time that could be measured.
            outputs["source_weights"] = self._weights[rows]
        return self._decoder.bind(inputs, outputs)

    def _checked(self, rows: slice) -> FloatArray:
        """The logits of neighbouring rows.

        Raises:
            ValueError: One is a NaN, or all of a text are minus infinity.
        """
        logits = self._logits[rows]
        # The largest of numbers one of which is NaN is NaN. Some may be minus infinity, for tokens that must not be.
        if not np.isfinite(logits.max(axis=-1)).all():
            raise ValueError("the model computed what is no finite number")
        return logits
