"""The graph on onnxruntime, with its cache in place: what a server does, in its smallest form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from headwaiter_export.errors import GraphRejectedError
from headwaiter_export.generation.graph import CacheShape
from headwaiter_export.runtime import Graph, first_line


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
        size = (rows, shape.num_heads, capacity, shape.head_dim)
        # What a row has no token for must not matter: it is filled with what would be seen.
        self.kept = {
            f"{part}_{layer}": np.full(size, 1e4, np.float32)
            for layer in range(shape.num_layers)
            for part in ("key", "value")
        }
        self.lengths: NDArray[np.int64] = np.zeros(rows, np.int64)

    def read(self, tokens: NDArray[np.int64], first: int) -> NDArray[np.float32]:
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
        logits: NDArray[np.float32] = binding.get_outputs()[0].numpy()
        return logits

    def prefill(self, row: int, ids: Sequence[int], chunk: int) -> NDArray[np.float32]:
        """Read a text into a row, in pieces; returns the logits of what follows it, `(vocab,)`."""
        logits: NDArray[np.float32] = np.zeros((1, 0), np.float32)
        for start in range(0, len(ids), chunk):
            logits = self.read(np.array([ids[start : start + chunk]], np.int64), row)
        last: NDArray[np.float32] = logits[0]
        return last


def generate(
    graph: Graph, shape: CacheShape, texts: Sequence[Sequence[int]], *, limit: int, ends: frozenset[int], chunk: int
) -> tuple[list[list[int]], list[NDArray[np.float32]]]:
    """Continue texts together, greedily.

    Args:
        graph: The graph.
        shape: What it keeps of every token.
        texts: Their tokens.
        limit: Most new tokens of each.
        ends: Tokens that end a text.
        chunk: Tokens of a text that are read at one time.

    Returns:
        The new tokens of each text, with the one that ends it; and the logits that they were chosen from,
        `(new tokens, vocab)`.
    """
    rows = CachedRows(graph, shape, len(texts), max(map(len, texts)) + limit)
    logits = np.stack([rows.prefill(row, ids, chunk) for row, ids in enumerate(texts)])
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
