"""Encoder models: the texts of a run laid out for the graph, and its outputs handed back to the texts.

Each text gets a copy of its part: a view would keep the answers of the whole run in memory until the last of its
texts' calls is answered.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from headwaiter_server.encoding import Encoding
from headwaiter_server.model.contract import Array, Cancellation, FloatArray, Graph, IntArray
from headwaiter_server.model.packing import pack, packs

_TYPES = "token_type_ids"


@dataclass(frozen=True)
class Head:
    """What an encoder's graph answers.

    Attributes:
        raw: Name of the output before normalisation, softmax or sigmoid.
        finished: Name of the output after it.
        per_token: Whether there is an answer for each token instead of one for each text.
    """

    raw: str
    finished: str
    per_token: bool = False


class PackedEncoder:
    """A graph that takes the tokens of all texts end to end; implements `EncoderModel`."""

    packed = True

    def __init__(self, graph: Graph, head: Head, max_run_tokens: int | None = None) -> None:
        """Wrap a graph.

        Args:
            graph: The graph.
            head: What it answers.
            max_run_tokens: Tokens up to which the texts of a run leave one another's answers alone; None for any
                number. More are run in several parts, and a longer text by itself.
        """
        self._graph = graph
        self._head = head
        self._max_run_tokens = max_run_tokens
        self._reads_types = _TYPES in graph.inputs

    def run(
        self, sources: Sequence[Encoding], raw: Sequence[bool], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        """Answer texts together; see `EncoderModel`."""
        if self._max_run_tokens is None:
            return self._run_together(sources, raw, cancellation)
        parts = packs(sources, self._max_run_tokens)
        return [answer for part in parts for answer in self._run_together(sources[part], raw[part], cancellation)]

    def _run_together(
        self, sources: Sequence[Encoding], raw: Sequence[bool], cancellation: Cancellation | None
    ) -> list[FloatArray]:
        packing = pack(sources)
        total = len(packing.input_ids)
        feeds: dict[str, Array] = {
            "input_ids": packing.input_ids,  # (tokens,)
            "position_ids": packing.position_ids,  # (tokens,)
            "segment": packing.segment,  # (tokens,)
            "text_starts": packing.starts,  # (texts,)
        }
        if self._reads_types:
            feeds[_TYPES] = _token_types(sources, total)  # (tokens,)
        per_token = self._head.per_token
        outputs = _run(self._graph, self._head, feeds, raw, total if per_token else len(sources), cancellation)
        _check_numbers(outputs.values())
        if per_token:
            places = zip(raw, packing.starts.tolist(), packing.stops.tolist(), strict=True)
            return [outputs[is_raw][start:stop].copy() for is_raw, start, stop in places]
        return [outputs[is_raw][row, ...].copy() for row, is_raw in enumerate(raw)]


class PaddedEncoder:
    """A graph that takes a row for each text, padded to the longest; implements `EncoderModel`."""

    packed = False

    def __init__(self, graph: Graph, head: Head, pad_id: int) -> None:
        self._graph = graph
        self._head = head
        self._pad_id = pad_id
        self._reads_types = _TYPES in graph.inputs

    def run(
        self, sources: Sequence[Encoding], raw: Sequence[bool], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        """Answer texts together; see `EncoderModel`."""
        packing = pack(sources)
        lengths = packing.stops - packing.starts
        taken = np.arange(int(lengths.max())) < lengths[:, np.newaxis]  # (texts, longest)
        ids = np.full(taken.shape, self._pad_id, np.int64)
        ids[taken] = packing.input_ids
        feeds: dict[str, Array] = {"input_ids": ids, "attention_mask": taken.astype(np.int64)}
        if self._reads_types:
            types = np.zeros(taken.shape, np.int64)
            types[taken] = _token_types(sources, len(packing.input_ids))
            feeds[_TYPES] = types
        outputs = _run(self._graph, self._head, feeds, raw, len(sources), cancellation)
        per_token = self._head.per_token
        # What comes of padding is nobody's answer.
        _check_numbers(output[taken] if per_token else output for output in outputs.values())
        if per_token:
            places = enumerate(zip(raw, lengths.tolist(), strict=True))
            return [outputs[is_raw][row, :length].copy() for row, (is_raw, length) in places]
        return [outputs[is_raw][row, ...].copy() for row, is_raw in enumerate(raw)]


def _token_types(sources: Sequence[Encoding], total: int) -> IntArray:
    if all(source.type_ids is None for source in sources):
        return np.zeros(total, np.int64)
    types = [source.type_ids or itertools.repeat(0, len(source)) for source in sources]
    return np.fromiter(itertools.chain.from_iterable(types), np.int64, total)


def _run(
    graph: Graph,
    head: Head,
    feeds: dict[str, Array],
    raw: Sequence[bool],
    rows: int,
    cancellation: Cancellation | None,
) -> dict[bool, FloatArray]:
    """Compute the outputs that somebody wants: the raw one as True, the finished one as False.

    Raises:
        ValueError: An output has not one row for each text, or for each token.
    """
    wanted = set(raw)
    names = [head.raw if is_raw else head.finished for is_raw in wanted]
    outputs = dict(zip(wanted, graph.run(names, feeds, cancellation), strict=True))
    for output in outputs.values():
        if output.shape[:1] != (rows,):
            raise ValueError(f"an output of shape {output.shape} for {rows} rows")
    return outputs


def _check_numbers(answers: Iterable[FloatArray]) -> None:
    """Refuse what is no answer. Whoever runs several texts finds out whose it is by running fewer.

    To attend to nothing of a neighbour is to multiply it by zero, and zero times infinity is NaN: a text on which the
    model overflows spoils the answers of its whole run.

    Raises:
        ValueError: One holds a NaN or an infinity.
    """
    for answer in answers:
        if not np.isfinite(answer).all():
            raise ValueError("the answer holds what is no finite number")
