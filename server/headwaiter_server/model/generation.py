"""What the scheduler needs of a model that generates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from headwaiter_server.encoding import Encoding
from headwaiter_server.model.contract import FloatArray, IntArray

# Prompts are read in pieces of so many tokens, cut at multiples of it from their beginning, whatever the load: a matrix
# product of few rows adds in another order than one of many, and a text's answer would depend on who else is there.
CHUNK_TOKENS: Final = 64


class GenerationRows(Protocol):
    """The model's side of texts being generated together: a fixed number of rows, each at its own place.

    Whoever uses it keeps count of what each row has read, and says so each time: a call that raised may be made again
    with fewer rows, and overwrites what it has written. One thread at a time. A NaN is raised, never returned: it would
    pass for the likeliest token. A row's answer does not depend on the other rows, down to the last bit.

    Attributes:
        rows: How many there are.
        capacity: Tokens that a row has places for.
        copied_bytes: What has been copied from place to place so far.
        run_seconds: What the graphs' runs have taken so far.
    """

    rows: int
    capacity: int
    copied_bytes: int
    run_seconds: float

    def encode(self, sources: Sequence[Encoding], rows: Sequence[int]) -> None:
        """Encode texts, once, for the decoder to attend to; only for models with an encoder.

        Args:
            sources: The texts.
            rows: For each, the rows that attend to it begin here; further ones get it by `copy`.
        """
        ...

    def read(self, row: int, tokens: Sequence[int], place: int) -> FloatArray:
        """Read neighbouring tokens of one text.

        Args:
            row: Its row.
            tokens: What it reads, at least one.
            place: How many tokens the row has before them.

        Returns:
            Logits of what follows the last of them, `(vocab,)`; the next call may overwrite them.
        """
        ...

    def step(self, tokens: IntArray, places: IntArray, start: int) -> FloatArray:
        """Read one token in each of some neighbouring rows.

        Args:
            tokens: What each row reads, `(n,)`. A row that nobody has reads any token at place 0.
            places: How many tokens each row has before, `(n,)`.
            start: The first of the rows.

        Returns:
            Logits of what follows, `(n, vocab)`; the next call may overwrite them.
        """
        ...

    def copy(self, source: int, target: int, first: int, stop: int) -> None:
        """Have one row go on as another: what it attends to, if it is not the same already, and some of its tokens.

        Args:
            source: The row that is copied.
            target: The row that is overwritten.
            first: The first place that differs; 0 for a row that had another text.
            stop: How many tokens the row has.
        """
        ...

    def attention(self, row: int) -> FloatArray:
        """What the last token that a row has read attends to in its source, `(layers, heads, source)`, a copy.

        Only for models with an encoder, and right after the call that read it.
        """
        ...

    def free(self, row: int) -> None:
        """Say that a row's tokens are not needed any more; the memory behind it may go back to the system."""
        ...


class GenerationModel(Protocol):
    """A model that generates text, one token a step.

    Attributes:
        start_id: What the decoder begins with; None where the model goes on with the text itself.
        end_ids: Tokens that end a text.
        vocab_size: Tokens it may choose from.
        max_total_tokens: Places that a text and what is generated share; those of what is generated with an encoder.
        token_bytes: What a row keeps of each token that it has read.
        source_token_bytes: What it keeps of each token of its source; 0 without an encoder.
    """

    start_id: int | None
    end_ids: frozenset[int]
    vocab_size: int
    max_total_tokens: int
    token_bytes: int
    source_token_bytes: int

    def new_rows(self, rows: int, capacity: int | None = None) -> GenerationRows:
        """Rows in memory of their own, of which only what is used is taken from the system.

        Args:
            rows: How many.
            capacity: Tokens that each has places for; `max_total_tokens` of them where it is not said.

        Raises:
            MemoryError: There is not as much address space.
        """
        ...
