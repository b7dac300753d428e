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
        more_outputs: What answers hold only where requests name it.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    decoupled: bool = False
    joined: bool = True
    more_outputs: tuple[TensorSpec, ...] = ()


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


class BoundGraph(Protocol):
    """A graph with its inputs and outputs in memory that is somebody else's. One thread at a time."""

    def give(self, name: str, values: Array) -> None:
        """Have an input read from elsewhere from now on.

        Args:
            name: The input.
            values: Where it lies, contiguous; what it holds when `run` is called counts.
        """
        ...

    def run(self) -> None:
        """Compute the outputs from what the inputs hold now.

        Raises:
            Exception: The graph fails; what the outputs hold then means nothing.
        """
        ...


class BindableGraph(TensorGraph, Protocol):
    """A graph that reads and writes memory of its caller, so that nothing is copied."""

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> BoundGraph:
        """Say where inputs and outputs lie.

        Args:
            inputs: Where to read, contiguous; those that are not named are given before the first run.
            outputs: Where to write, contiguous and of the shape that comes out; the same memory as an input's where the
                graph says that it may. What is not named is not handed out.
        """
        ...


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
