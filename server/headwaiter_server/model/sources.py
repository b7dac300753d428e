"""What a decoder attends to: sources, encoded once, for the rows that generate from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

import numpy as np

from headwaiter_server.encoding import Encoding
from headwaiter_server.model.contract import Array, FloatArray, Graph, IntArray
from headwaiter_server.model.kv_cache import KEPT_ROW_BYTES, CacheGeometry, KeyValueMemory
from headwaiter_server.model.packing import Packing, pack, packs

# Tokens of an encoder run. A longer one gains nothing on a processor core, and scores every token against every other
# one of the run. Measured with 3 layers of width 192: 64 to 96 are best.
_PACK_TOKENS: Final = 96
# Columns come and go in these steps, so that sources are rarely laid anew.
_COLUMN_STEP: Final = 8


@dataclass(frozen=True)
class _Pack:
    """Texts that were encoded in one run.

    Attributes:
        members: Which of the texts.
        packing: How they lay.
        tensors: Keys and values of each token, `(tokens, heads, head_dim)` each.
    """

    members: slice
    packing: Packing
    tensors: list[FloatArray]


class Sources:
    """Keys and values of the sources of some rows.

    The decoder computes over every column that there is: there are as many as the longest source needs, in steps. When
    a longer one comes, or the long ones have gone, all are laid anew.

    Attributes:
        columns: Tokens that each row has room for. Where it changes, all lie elsewhere.
    """

    def __init__(self, encoder: Graph, cache: CacheGeometry, rows: int, max_run_tokens: int | None) -> None:
        self._encoder = encoder
        self._cache = cache
        self._names = cache.names("cross_")
        self._rows = rows
        self._pack_tokens = min(_PACK_TOKENS, max_run_tokens or _PACK_TOKENS)
        # A row without a source has a column of its own all the same: to attend to nothing is no number.
        self._lengths: IntArray = np.ones(rows, np.int64)
        # Which source a row has; 0 for none.
        self._texts: IntArray = np.zeros(rows, np.int64)
        self._numbers = count(1)
        self._memory = KeyValueMemory(cache, rows, _COLUMN_STEP)
        self.columns = _COLUMN_STEP

    def run(self, sources: Sequence[Encoding]) -> list[_Pack]:
        """Encode texts, in packs.

        Raises:
            ValueError: What came of one is no finite number.
        """
        return [self._encode(members, sources[members]) for members in packs(sources, self._pack_tokens)]

    def put(self, encoded: Sequence[_Pack], sources: Sequence[Encoding], rows: Sequence[int]) -> int:
        """Put what was encoded into rows.

        Args:
            encoded: What `run` has made.
            sources: Of these texts.
            rows: A row for each.

        Returns:
            Bytes of other sources that were laid anew.
        """
        lengths = [len(source) for source in sources]
        places = np.array(rows)
        self._texts[places] = 0
        copied_bytes = self._fit(max(lengths))
        self._lengths[places] = lengths
        self._texts[places] = [next(self._numbers) for _ in rows]
        for each in encoded:
            token_rows = places[each.members][each.packing.segment]
            for tensor, values in zip(self._memory.tensors, each.tensors, strict=True):
                tensor[token_rows, :, each.packing.position_ids] = values
        return copied_bytes

    def copy(self, source: int, target: int) -> int:
        """Have a row attend to what another attends to, and return the bytes that it took."""
        if self._texts[source] == self._texts[target]:
            return 0
        length = self._lengths[source]
        for tensor in self._memory.tensors:
            tensor[target, :, :length] = tensor[source, :, :length]
        self._lengths[target] = length
        self._texts[target] = self._texts[source]
        return int(length) * self._cache.token_bytes

    def free(self, row: int) -> None:
        """Say that a row's source is not needed any more; the memory behind a long one goes back to the system."""
        if int(self._lengths[row]) * self._cache.token_bytes > KEPT_ROW_BYTES:
            self._memory.give_back(row)
        self._texts[row] = 0
        self._lengths[row] = 1

    def length(self, row: int) -> int:
        """Tokens of a row's source."""
        return int(self._lengths[row])

    def inputs(self, rows: slice) -> dict[str, Array]:
        """What the decoder takes of neighbouring rows' sources, by the names of the graph."""
        cross = zip(self._names, self._memory.tensors, strict=True)
        return {"source_lengths": self._lengths[rows], **{name: tensor[rows] for name, tensor in cross}}

    def _encode(self, members: slice, sources: Sequence[Encoding]) -> _Pack:
        packing = pack(sources)
        feeds = {"input_ids": packing.input_ids, "position_ids": packing.position_ids, "segment": packing.segment}
        tensors = self._encoder.run(self._names, feeds)
        # To attend to nothing of it is to multiply it by zero, and with NaN that is NaN: it would spread to the texts
        # of the same run, and from a column that is masked to the row's next text.
        if not all(np.isfinite(tensor).all() for tensor in tensors):
            raise ValueError("the model computed what is no finite number")
        return _Pack(members, packing, tensors)

    def _fit(self, longest: int) -> int:
        """Have room for a source, and for those that there are; give room back when less than half of it is needed."""
        taken = np.flatnonzero(self._texts)
        need = -(-max(longest, int(self._lengths[taken].max(initial=1))) // _COLUMN_STEP) * _COLUMN_STEP
        if self.columns // 2 <= need <= self.columns:
            return 0
        memory = KeyValueMemory(self._cache, self._rows, need)
        places = list(zip(taken.tolist(), self._lengths[taken].tolist(), strict=True))
        for number, (new, old) in enumerate(zip(memory.tensors, self._memory.tensors, strict=True)):
            for row, length in places:
                new[row, :, :length] = old[row, :, :length]
            self._memory.give_back_tensor(number)  # never all of it twice
        self._memory, self.columns = memory, need
        return int(self._lengths[taken].sum()) * self._cache.token_bytes
