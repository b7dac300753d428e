"""onnxruntime, and greedy decoding on it: what a server does, in its smallest form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from headwaiter_export.errors import GraphRejectedError, NameClashError

Arrays = Mapping[str, NDArray[Any]]


class Graph:
    """One written graph, loaded from its bytes.

    Attributes:
        file_name: Of the graph.
        session: It, on one thread.
        outputs: Names of its outputs.
    """

    def __init__(self, path: Path) -> None:
        """Load the file.

        Raises:
            NameClashError: onnxruntime found two values of one name.
            GraphRejectedError: onnxruntime does not load it.
        """
        self.file_name = path.name
        options = onnxruntime.SessionOptions()
        options.log_severity_level = (
            4  # what goes wrong is raised as well, warnings are about fusions that did not apply
        )
        # Small work: threads that wait for one another, spinning, cost more than they bring on a busy machine.
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            message = first_line(error)
            if "Duplicate definition" in message:
                raise NameClashError(f"{path.name}: {message}") from error
            raise GraphRejectedError(f"{path.name}: onnxruntime does not load it: {message}") from error
        self.outputs = [value.name for value in self.session.get_outputs()]

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Run it once.

        Raises:
            GraphRejectedError: onnxruntime fails, for instance on a shape that was fixed inside the graph.
        """
        try:
            values = self.session.run(None, dict(feeds))
        except Exception as error:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
            raise GraphRejectedError(
                f"{self.file_name}: onnxruntime does not run it on {shapes}: {first_line(error)}"
            ) from error
        return dict(zip(self.outputs, values, strict=True))


def encode(encoder: Graph, source_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Run a packed encoder graph on padded rows.

    Args:
        encoder: The graph.
        source_ids: `(batch, source)`, padded on the right.
        lengths: `(batch,)`.

    Returns:
        Its outputs in rows, `(batch, heads, source, head_dim)`; columns beyond a row's length are zero.
    """
    real = np.arange(source_ids.shape[1]) < lengths[:, None]
    segment, position = np.nonzero(real)
    packed = encoder.run({"input_ids": source_ids[real], "position_ids": position, "segment": segment})
    rows = {}
    for name, values in packed.items():  # (tokens, heads, head_dim)
        _, heads, head_dim = values.shape
        rows[name] = np.zeros((len(lengths), heads, source_ids.shape[1], head_dim), values.dtype)
        rows[name][segment, :, position] = values
    return rows


class Decoder:
    """Greedy decoding with an encoder graph and a decoder-step graph."""

    def __init__(self, encoder: Graph, step: Graph, *, bos_id: int, eos_id: int, pad_id: int) -> None:
        """Take two loaded graphs and the special tokens."""
        self._encoder, self._step = encoder, step
        self._bos_id, self._eos_id, self._pad_id = bos_id, eos_id, pad_id

    def decode(self, source_ids: NDArray[np.int64], lengths: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
        """Take the likeliest token at every step until each row has ended.

        Args:
            source_ids: `(batch, source)`, padded on the right.
            lengths: `(batch,)`.
            limit: Most tokens to generate.

        Returns:
            `(batch, generated)`: without `bos_id`, with `eos_id` where a row ended, then `pad_id`.
        """
        cross = encode(self._encoder, source_ids, lengths)
        batch, heads, _, head_dim = next(iter(cross.values())).shape
        cache = {name.replace("cross", "self"): np.zeros((batch, heads, limit, head_dim), np.float32) for name in cross}
        token = np.full(batch, self._bos_id)
        finished = np.zeros(batch, bool)
        generated = np.full((batch, limit), self._pad_id)
        for position in range(limit):
            # Capacity 0 is no shape the graph promises; its one column does not count at position 0.
            past = {name: value[:, :, : max(1, position)] for name, value in cache.items()}
            where = {"token": token, "position": np.full(batch, position), "source_lengths": lengths}
            found = self._step.run({**where, **past, **cross})
            for name, value in cache.items():
                value[:, :, position] = found[name.replace("self", "new")]
            token = np.where(finished, self._pad_id, found["logits"].argmax(-1))
            generated[:, position] = token
            finished |= token == self._eos_id
            if finished.all():
                return generated[:, : position + 1]
        return generated


def first_line(error: Exception) -> str:
    """The first line of what an error says, or else its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
