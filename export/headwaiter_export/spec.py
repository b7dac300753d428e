"""What a graph's inputs and outputs must look like, said once: traced from, checked against, written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headwaiter_proto.v1 import bundle_pb2


@dataclass(frozen=True)
class Tensor:
    """One input or output.

    Attributes:
        name: Its name in the graph.
        dtype: Element type as numpy names it.
        shape: A number for a fixed axis, a name for a dynamic one; axes of one name have one size.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def proto(self) -> bundle_pb2.TensorSpec:
        """The same for the manifest."""
        return bundle_pb2.TensorSpec(name=self.name, dtype=self.dtype, shape=[str(axis) for axis in self.shape])

    def sizes(self, axes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with each dynamic axis replaced by a size."""
        return tuple(axes[axis] if isinstance(axis, str) else axis for axis in self.shape)


@dataclass(frozen=True)
class GraphSpec:
    """One graph: its role, its file and its signature."""

    role: bundle_pb2.GraphRole
    file_name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
