"""PyTorch and onnxruntime side by side: no bundle without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import torch
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray

from headwaiter_export.errors import ToleranceExceededError
from headwaiter_export.runtime import Graph, encode
from headwaiter_export.transformer import KeyValue, Transformer, cross_keys_values, padding_mask, step

BATCHES: Final = (1, 2, 7, 32)
LENGTHS: Final = (1, 2, 9, 30)
STEPS: Final = 4
# Far above any activation, far below where products overflow.
_GARBAGE: Final = 1e4

# Whatever describes what is tried; its words stand in the error.
Tried = TypeVar("Tried")


@dataclass(frozen=True)
class Shape:
    """One point of the grid: `padded` rows are of different lengths, the longest being `length`."""

    batch: int
    length: int
    padded: bool

    def __str__(self) -> str:
        rows = "rows of different lengths up to" if self.padded else "every row of length"
        return f"batch {self.batch}, {rows} {self.length}"

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, `(batch,)`; row 0 has all."""
        rows = np.arange(self.batch)
        return self.length - rows % self.length if self.padded else np.full(self.batch, self.length)


def grid(max_length: int) -> list[Shape]:
    """Every shape to try, but for those a model of `max_length` cannot read.

    One row, or rows of one token, cannot differ in length.
    """
    lengths = [length for length in LENGTHS if length <= max_length]
    shapes = [Shape(batch, length, padded) for batch in BATCHES for length in lengths for padded in (False, True)]
    return [shape for shape in shapes if not shape.padded or (shape.batch > 1 and shape.length > 1)]


@torch.inference_mode()
def compare(model: Transformer, encoder: Graph, decoder_step: Graph, shape: Shape) -> bundle_pb2.ParityPoint:
    """Encode once and decode several steps on both sides, with rows at different positions.

    Each side writes its own new columns into its own cache, so differences may grow as they would in use.
    Columns that do not count hold large finite garbage.
    """
    config = model.config
    generator = np.random.default_rng(shape.batch * 1000 + shape.length * 2 + shape.padded)
    lengths = shape.lengths()
    source = generator.integers(0, config.vocab_size, (shape.batch, shape.length))
    source[np.arange(shape.length) >= lengths[:, None]] = config.pad_id
    torch_lengths = torch.from_numpy(lengths)
    memory = model.encode(torch.from_numpy(source), padding_mask(torch_lengths, shape.length))
    torch_cross = cross_keys_values(model, memory)
    onnx_cross = encode(encoder, source, lengths)
    # Padding is compared with nothing: the packed graph has none.
    real = torch.arange(shape.length) < torch_lengths.unsqueeze(1)
    difference = _difference(
        [each.masked_fill(~real[:, None, :, None], 0.0) for pair in torch_cross for each in pair],
        list(onnx_cross.values()),
    )
    for value in onnx_cross.values():
        value.transpose(0, 2, 1, 3)[~real.numpy()] = _GARBAGE

    steps = min(STEPS, config.max_target_length)
    starts = np.arange(shape.batch) % (config.max_target_length - steps + 1) % 7
    onnx_cache = _cache(generator, starts, (config.num_heads, int(starts.max()) + steps, config.d_k), onnx_cross)
    torch_cache = {name: torch.from_numpy(value.copy()) for name, value in onnx_cache.items()}
    rows = np.arange(shape.batch)
    for index in range(steps):
        position = starts + index
        token = generator.integers(0, config.vocab_size, shape.batch)
        # Every second step with just the columns that count: both a full and an oversized cache are tried.
        capacity = max(1, int(position.max()) + index % 2)
        past = [
            KeyValue(torch_cache[f"self_key_{i}"][:, :, :capacity], torch_cache[f"self_value_{i}"][:, :, :capacity])
            for i in range(config.num_decoder_layers)
        ]
        expected = step(model, torch.from_numpy(token), torch.from_numpy(position), past, torch_cross, torch_lengths)
        found = decoder_step.run(
            {"token": token, "position": position, "source_lengths": lengths}
            | {name: value[:, :, :capacity] for name, value in onnx_cache.items()}
            | onnx_cross
        )
        columns = [each for pair in expected.new_columns for each in pair]
        now = _difference([expected.logits, *columns], list(found.values()))
        difference = float(np.maximum(difference, now))
        for name, column in zip(onnx_cache, columns, strict=True):
            torch_cache[name][rows, :, position] = column
            onnx_cache[name][rows, :, position] = found[name.replace("self", "new")]
    return bundle_pb2.ParityPoint(
        batch=shape.batch, length=shape.length, padded=shape.padded, steps=steps, max_abs_diff=difference
    )


def certify(
    shapes: Sequence[Tried], tolerance: float, measure: Callable[[Tried], bundle_pb2.ParityPoint]
) -> Iterator[bundle_pb2.ParityPoint]:
    """Measure shape after shape and stop at the first that is out of tolerance.

    Raises:
        ToleranceExceededError: Naming the shape and the difference.
    """
    for shape in shapes:
        point = measure(shape)
        # Not `>`: a NaN is out of tolerance too.
        if not point.max_abs_diff <= tolerance:
            raise ToleranceExceededError(
                f"PyTorch and onnxruntime differ by {point.max_abs_diff:.3g}, more than the tolerance {tolerance:g},"
                f" at {shape}"
            )
        yield point


def _cache(
    generator: np.random.Generator, starts: NDArray[np.int64], size: tuple[int, int, int], cross: dict[str, Any]
) -> dict[str, NDArray[np.float32]]:
    """Caches `(batch, heads, capacity, head_dim)`: plausible where they count, garbage where they do not."""
    heads, capacity, head_dim = size
    stale = np.arange(capacity) >= starts[:, None]
    cache = {}
    for name in cross:
        values = generator.standard_normal((len(starts), heads, capacity, head_dim), np.float32)
        cache[name.replace("cross", "self")] = np.where(stale[:, None, :, None], values * _GARBAGE, values)
    return cache


def scaled_difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The largest difference, relative to the largest number where numbers exceed 1."""
    if found.shape != wanted.shape:
        return float("inf")
    if not found.size or np.array_equal(found, wanted):
        return 0.0
    one, other = found.astype(np.float64), wanted.astype(np.float64)
    return float(np.abs(one - other).max() / np.maximum(1.0, np.abs(other).max()))


def _difference(expected: list[torch.Tensor], found: list[NDArray[Any]]) -> float:
    pairs = [(one.numpy(), other) for one, other in zip(expected, found, strict=True)]
    if any(one.shape != other.shape for one, other in pairs):
        return float("inf")
    # numpy's max keeps a NaN, Python's may lose it.
    return float(np.max([np.abs(one - other).max() for one, other in pairs]))
