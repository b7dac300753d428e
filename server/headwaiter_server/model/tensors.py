"""Models of tensors: the rows of several requests laid one below the other, and taken apart again."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from headwaiter_server.model.contract import Array, Cancellation, Signature, TensorGraph
from headwaiter_server.model.datatypes import BF16, BY_NAME, BYTES

Tensors = dict[str, Array]

# Numbers of 16 bits of which all of these are set are infinities or NaN. numpy would take fifty times as long for FP16,
# which it computes with one by one, and does not know BF16.
_EXPONENTS = {"FP16": np.uint16(0x7C00), BF16: np.uint16(0x7F80)}


@dataclass(frozen=True, slots=True, eq=False)
class TensorRows:
    """The inputs of one request.

    Attributes:
        arrays: By name, of the shapes that requests have; strings are objects of `str`.
        rows: Along the first axis of each; 1 where that is no axis of rows.
        likeness: Requests of one likeness may share a run; one of None runs alone.
    """

    arrays: Mapping[str, Array]
    rows: int
    likeness: Hashable

    def __len__(self) -> int:
        """Its cost: its rows."""
        return self.rows


def rows_of(signature: Signature, arrays: Mapping[str, Array]) -> TensorRows:
    """The inputs of a request to a model.

    Args:
        signature: Of the model.
        arrays: What the request holds, of shapes that suit the signature.
    """
    if not signature.max_batch_size:
        return TensorRows(arrays, 1, None)
    rows = len(next(iter(arrays.values())))
    if not signature.joined:
        return TensorRows(arrays, rows, None)
    likeness = tuple([(spec.name, arrays[spec.name].shape[1:]) for spec in signature.inputs if spec.name in arrays])
    return TensorRows(arrays, rows, likeness)


def floating(datatype: str) -> bool:
    """Whether elements of a type may be no finite numbers."""
    return datatype == BF16 or BY_NAME[datatype].dtype.kind == "f"


def finite(datatype: str, values: Array) -> NDArray[np.bool_]:
    """Which elements are finite numbers, of a type that has others.

    Args:
        datatype: Of the elements: "FP32".
        values: The elements.
    """
    exponent = _EXPONENTS.get(datatype)
    if exponent is None:
        return np.isfinite(values)
    numbers: NDArray[np.bool_] = (values.view(np.uint16) & exponent) < exponent
    return numbers


class TensorModel:
    """A graph that takes and gives tensors; implements `BatchModel`.

    Attributes:
        signature: What requests and answers hold.
        packed: See `BatchModel`: rows cost what they are, and nothing is padded.
    """

    packed = True

    def __init__(
        self,
        graph: TensorGraph,
        signature: Signature,
        reshapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """Wrap a graph.

        Args:
            graph: The graph.
            signature: What requests and answers hold.
            reshapes: Of inputs, the shapes that the graph takes where those of requests are others, and of outputs,
                the shapes of answers where the graph's are others; without the axis of rows; -1 for what is left over.
        """
        self.signature = signature
        self._graph = graph
        self._reshapes = reshapes or {}
        self._datatypes = {each.name: each.datatype for each in signature.outputs}
        self._strings = {name for name, datatype in self._datatypes.items() if datatype == BYTES}

    def run(
        self,
        sources: Sequence[TensorRows],
        wanted: Sequence[tuple[str, ...]],
        /,
        cancellation: Cancellation | None = None,
    ) -> list[Tensors]:
        """Answer requests together, each as if it were alone; see `BatchModel`.

        A request that runs alone is given what the graph gave. Of several, each gets a copy of its part: a view would
        keep the answers of the whole run in memory until the last of its calls is answered.

        Raises:
            ValueError: The graph gave another number of rows than it was given.
        """
        if len(sources) == 1:
            return [self._compute(sources[0].arrays, wanted[0], cancellation)]
        # The whole graph is computed for any of its outputs: giving each request more than one run would gain nothing.
        asked = {name for names in wanted for name in names}
        names = [each for each in self._datatypes if each in asked]
        arrays = {name: np.concatenate([each.arrays[name] for each in sources]) for name in sources[0].arrays}
        outputs = self._compute(arrays, names, cancellation)
        edges = [0, *accumulate(each.rows for each in sources)]
        for name, output in outputs.items():
            if output.shape[:1] != (edges[-1],):
                raise ValueError(f"output {name} of shape {output.shape} for {edges[-1]} rows")
        # What is no finite number may have come from a batch-mate. Alone, the request gets what is its own.
        doubtful = [name for name, output in outputs.items() if not self._finite(name, output)]
        return [
            self._compute(source.arrays, names_wanted, cancellation)
            if any(not self._finite(name, outputs[name][start:stop]) for name in doubtful)
            else {name: outputs[name][start:stop].copy() for name in names_wanted}
            for source, names_wanted, (start, stop) in zip(sources, wanted, pairwise(edges), strict=True)
        ]

    def _compute(self, arrays: Mapping[str, Array], names: Sequence[str], cancellation: Cancellation | None) -> Tensors:
        feeds = arrays if not self._reshapes else dict(self._reshaped(arrays))
        if not all(array.flags.aligned for array in feeds.values()):  # they are views on what came over the wire
            feeds = {name: np.require(array, requirements="A") for name, array in feeds.items()}
        outputs: Tensors = dict(zip(names, self._graph.run(names, feeds, cancellation), strict=True))
        for name in self._strings & outputs.keys():
            outputs[name] = _encoded(outputs[name])
        return outputs if not self._reshapes else dict(self._reshaped(outputs))

    def _reshaped(self, tensors: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
        leading = 1 if self.signature.max_batch_size else 0
        for name, tensor in tensors.items():
            shape = self._reshapes.get(name)
            yield name, tensor if shape is None else tensor.reshape((*tensor.shape[:leading], *shape))

    def _finite(self, name: str, output: Array) -> bool:
        return not floating(self._datatypes[name]) or bool(finite(self._datatypes[name], output).all())


def _encoded(strings: Array) -> Array:
    """Strings as requests and answers have them: objects of `bytes`."""
    encoded = np.empty(strings.size, object)
    encoded[:] = [each.encode() for each in strings.ravel()]
    return encoded.reshape(strings.shape)
