"""What the scheduler needs of a model. Everything depends on this file instead of on onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from headwaiter_server.encoding import Encoding

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
Array = NDArray[Any]

Source = TypeVar("Source")
Wanted = TypeVar("Wanted")
Source_contra = TypeVar("Source_contra", contravariant=True)
Wanted_contra = TypeVar("Wanted_contra", contravariant=True)
Values = TypeVar("Values")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output, as requests and answers have it.

    Attributes:
        name: Its name.
        datatype: Its elements, as `datatypes` names them: "FP32".
        shape: Sizes of its axes, -1 for any; where the model takes batches, the first is the batch's.
        optional: Whether requests may leave it out.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives, in tensors.

    Attributes:
        inputs: What requests hold.
        outputs: What answers hold, in order.
        max_batch_size: Most rows of one request; 0 where the first axis is none of rows.
        decoupled: Whether a request may have other than one answer.
        joined: Whether rows of several requests may share a run.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    decoupled: bool = False
    joined: bool = True


class Cancellation:
    """A way to end a run early from another thread, before it begins or while it goes on.

    Attributes:
        requested: Whether nobody wants the run any more; its outcome is then no failure, whatever it is.
    """

    __slots__ = ("_end", "requested")

    def __init__(self) -> None:
        self._end: Callable[[], None] | None = None
        self.requested = False

    def request(self) -> None:
        """End the run. May be called from any thread, at any time, also after the run has ended."""
        self.requested = True
        if self._end is not None:
            self._end()

    def arm(self, end: Callable[[], None]) -> None:
        """Say how the run that begins now is ended; for graphs.

        Args:
            end: Ends it; called from any thread, and maybe twice.
        """
        # In this order, and the opposite one in `request`: whichever thread comes second sees what the first has done.
        self._end = end
        if self.requested:
            end()


class RefusedInputError(ValueError):
    """A graph was given values that it has no answer to, such as an index that a table has no row for."""


class Graph(Protocol):
    """One ONNX graph. May be run from several threads at once.

    Attributes:
        inputs: Names of its inputs.
        outputs: Names of its outputs.
    """

    inputs: list[str]
    outputs: list[str]

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, Array], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        """Compute the named outputs.

        Args:
            outputs: Names, in the order wanted.
            feeds: Every input, contiguous.
            cancellation: Ends the run early; it raises then.

        Raises:
            RefusedInputError: An input holds what the graph has no answer to.
        """
        ...


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """An input or output of a graph.

    Attributes:
        name: Its name.
        onnx_type: Its type, as onnxruntime names it: "tensor(float)".
        shape: Its axes: a number for a fixed size, a name for one of any size, None for one without a name.
        optional: Whether the graph has a value for it when none is given.
    """

    name: str
    onnx_type: str
    shape: tuple[int | str | None, ...]
    optional: bool = False


class TensorGraph(Graph, Protocol):
    """A graph that tells what its tensors are, and takes and gives every type of them.

    Strings are objects of `str`; BF16 is its 16 bits, as uint16.

    Attributes:
        input_tensors: Its inputs, the optional ones last.
        output_tensors: Its outputs.
    """

    input_tensors: tuple[GraphTensor, ...]
    output_tensors: tuple[GraphTensor, ...]


class BatchModel(Protocol[Source_contra, Wanted_contra, Values]):
    """A model that answers what it is asked in one run. May be run from several threads at once.

    Attributes:
        packed: Whether a run costs what it is asked costs; otherwise, its rows times the longest of them.
    """

    packed: bool

    def run(
        self,
        sources: Sequence[Source_contra],
        wanted: Sequence[Wanted_contra],
        /,
        cancellation: Cancellation | None = None,
    ) -> list[Values]:
        """Answer several together; each as if it were alone.

        Args:
            sources: What is read, at least one.
            wanted: For each, what is wanted of it.
            cancellation: Ends the run early; it raises then.

        Returns:
            The answer of each.

        Raises:
            Exception: It cannot answer one of them.
        """
        ...


class EncoderModel(Protocol):
    """A model that reads whole texts and answers each at once. May be run from several threads at once.

    Attributes:
        packed: Whether a run costs what its texts' tokens cost; otherwise, its rows times the longest of them.
    """

    packed: bool

    def run(
        self, sources: Sequence[Encoding], raw: Sequence[bool], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        """Answer texts together; each as if it were alone.

        Args:
            sources: The texts, at least one.
            raw: For each, whether the raw answer is wanted (vector as it is, logits) or the finished one (vector of
                length 1, probabilities).
            cancellation: Ends the run early; it raises then.

        Returns:
            The answer of each: `(dimension,)` or `(labels,)`, `()` where the model gives one score, `(tokens, labels)`
            where it judges each token.

        Raises:
            Exception: It cannot answer one of them; an answer of NaNs or infinities is none.
        """
        ...


class DecodingBatch(Protocol):
    """The model's side of texts being generated together: one row each, until `keep` gives the row to another.

    One thread at a time. A method that raises has changed nothing. A NaN is raised, never kept or returned: it would
    pass for the likeliest token, and spread to other texts.
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
