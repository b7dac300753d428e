"""What the scheduler needs of a model. Everything depends on this file instead of on onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headwaiter_server.encoding import Encoding

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
Array = NDArray[Any]


class Graph(Protocol):
    """One ONNX graph. May be run from several threads at once.

    Attributes:
        inputs: Names of its inputs.
        outputs: Names of its outputs.
    """

    inputs: list[str]
    outputs: list[str]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[FloatArray]:
        """Compute the named outputs.

        Args:
            outputs: Names, in the order wanted.
            feeds: Every input, contiguous.
        """
        ...


class DecodingBatch(Protocol):
    """The model's side of texts being generated together: one row each, until `keep` gives the row to another.

    One thread at a time. A method that raises has changed nothing.
    """

    def join(self, sources: Sequence[Encoding], rows: Sequence[int]) -> None:
        """Put source texts into rows, ready for their first step.

        Args:
            sources: The texts.
            rows: A row for each: one whose text is done, or one behind the last.
        """
        ...

    def step(self, tokens: IntArray, start: int, stop: int) -> FloatArray:
        """Read one token for each of the rows `[start, stop)`.

        Args:
            tokens: The rows' latest tokens, `(stop - start,)`.
            start: First row.
            stop: One past the last row.

        Returns:
            Logits of the next token, `(stop - start, vocab)`.
        """
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Make `rows[i]` the new row i; rows not named are freed. Rows that stay in place cost nothing."""
        ...


class GenerationModel(Protocol):
    """A model that generates text, one token a step.

    Attributes:
        bos_id: Token every generation starts from.
        eos_id: Token that ends one.
    """

    bos_id: int
    eos_id: int

    def new_batch(self) -> DecodingBatch:
        """An empty batch."""
        ...
