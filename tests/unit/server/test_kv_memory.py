"""Memory for keys and values: what is not written takes none, and what is not needed goes back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from headwaiter_server.encoding import Encoding
from headwaiter_server.model.cached import CachedModel
from headwaiter_server.model.contract import Array, Cancellation, FloatArray, GraphTensor
from headwaiter_server.model.kv_cache import KEPT_ROW_BYTES, CacheGeometry, KeyValueMemory
from headwaiter_server.model.sources import Sources

MIB = 1 << 20
WIDE = CacheGeometry(num_layers=4, num_heads=8, head_dim=64)
PLACES = 1024
ROW_BYTES = PLACES * WIDE.token_bytes


class Writes:
    """A decoder that writes ones into the places that rows read, and answers zeros."""

    inputs: list[str]
    outputs: list[str]
    input_tensors: tuple[GraphTensor, ...] = ()
    output_tensors: tuple[GraphTensor, ...] = ()

    def __init__(self) -> None:
        self.inputs = self.outputs = []

    def run(
        self, outputs: object, feeds: Mapping[str, Array], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        raise NotImplementedError

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Bound:
        return Bound(dict(inputs), outputs)


class Bound:
    def __init__(self, inputs: dict[str, Array], outputs: Mapping[str, Array]) -> None:
        self._inputs = inputs
        self._outputs = outputs

    def give(self, name: str, values: Array) -> None:
        self._inputs[name] = values

    def run(self) -> None:
        tokens = self._inputs["input_ids"].shape[1]
        for row, place in enumerate(self._inputs["past_lengths"].tolist()):
            for name in WIDE.names():
                self._outputs[f"new_{name}"][row, :, place : place + tokens] = 1
        self._outputs["logits"][:] = 0


@pytest.fixture
def model() -> CachedModel:
    """Each of its texts may take 16 MiB."""
    return CachedModel(
        Writes(), None, WIDE, vocab_size=3, max_total_tokens=PLACES, start_id=None, end_ids=frozenset({2})
    )


def grown(memory: KeyValueMemory, work: Callable[[], object]) -> float:
    """By how many MiB of the machine's memory a memory grows."""
    before = _resident(memory)
    work()
    return (_resident(memory) - before) / 1024


def _resident(memory: KeyValueMemory) -> int:
    """KiB of the machine's memory behind the addresses of a memory, and of what the kernel holds for one with it."""
    start = memory.tensors[0].ctypes.data
    stop = memory.tensors[-1].ctypes.data + memory.tensors[-1].nbytes
    resident, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="ascii").splitlines():
        if mapping := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(mapping[1], 16) < stop and start < int(mapping[2], 16)
        elif inside and line.startswith("Rss:"):
            resident += int(line.split()[1])
    return resident


def test_memory_is_taken_when_it_is_written() -> None:
    """A gigabyte of places costs nothing, also when it is read; a row costs what it is."""
    memory = KeyValueMemory(WIDE, 64, PLACES)
    assert [tensor.shape for tensor in memory.tensors] == [(64, 8, PLACES, 64)] * 8
    assert grown(memory, lambda: [float(tensor[5].max()) for tensor in memory.tensors]) < 1

    def write() -> None:
        for tensor in memory.tensors:
            tensor[5] = 1

    assert grown(memory, write) == pytest.approx(ROW_BYTES / MIB, abs=1)


def test_memory_goes_back_and_neighbours_keep_theirs() -> None:
    """A row that is given back is zeros, but for ends of pages that its neighbours share; these keep every number."""
    geometry = CacheGeometry(num_layers=2, num_heads=3, head_dim=20)
    memory = KeyValueMemory(geometry, 5, 333)  # rows of 79,920 bytes, which are no pages
    generator = np.random.default_rng(1)
    before = [generator.random(tensor.shape, np.float32) + 1 for tensor in memory.tensors]
    for tensor, values in zip(memory.tensors, before, strict=True):
        tensor[:] = values
    memory.give_back(2)
    for tensor, values in zip(memory.tensors, before, strict=True):
        for row in (0, 1, 3, 4):
            assert np.array_equal(tensor[row], values[row])
        assert np.mean(tensor[2] == 0) > 0.8
        assert np.all((tensor[2] == 0) | (tensor[2] == values[2]))
    for row in (0, 4):  # the ends of the memory
        memory.give_back(row)


def test_tensor_goes_back_by_itself() -> None:
    """One of them is zeros, and the others keep every number."""
    memory = KeyValueMemory(CacheGeometry(num_layers=2, num_heads=3, head_dim=20), 5, 333)
    for tensor in memory.tensors:
        tensor[:] = 1
    assert grown(memory, lambda: memory.give_back_tensor(2)) < -0.3
    assert [float(tensor.mean()) for tensor in memory.tensors] == [1, 1, 0, 1]


def test_more_than_there_are_addresses_is_refused() -> None:
    """What no system has is said in words, and not with what Python calls it."""
    huge = CacheGeometry(num_layers=1 << 20, num_heads=1 << 20, head_dim=1 << 20)
    for geometry, rows in ((huge, 4096), (CacheGeometry(1024, 1024, 1024), 1 << 12)):
        with pytest.raises(MemoryError, match="MiB of address space for the keys and values of 4096 texts"):
            KeyValueMemory(geometry, rows, 1 << 20)


def test_long_text_gives_its_memory_back(model: CachedModel) -> None:
    """A row that has taken much is empty when its text is gone, however it was read: at once, or one by one."""
    rows = model.new_rows(4)

    def read() -> None:
        rows.read(1, [0] * 900, 0)
        for place in range(900, PLACES):
            rows.step(np.zeros(2, np.int64), np.array([place, 0]), 1)

    assert grown(rows._memory, read) == pytest.approx(ROW_BYTES / MIB, abs=1)
    assert grown(rows._memory, lambda: rows.free(1)) == pytest.approx(-ROW_BYTES / MIB, abs=1)


def test_copied_text_gives_its_memory_back(model: CachedModel) -> None:
    """Also what was copied into a row is known to be there."""
    rows = model.new_rows(4)
    rows.read(1, [0] * 1000, 0)
    assert grown(rows._memory, lambda: rows.copy(1, 3, 0, 1000)) > 15
    assert grown(rows._memory, lambda: rows.free(3)) < -15


class Encodes:
    """An encoder that makes ones of every token."""

    inputs: list[str]
    outputs: list[str]

    def __init__(self) -> None:
        self.inputs = self.outputs = []

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, Array], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        return [np.ones((len(feeds["input_ids"]), WIDE.num_heads, WIDE.head_dim), np.float32) for _ in outputs]


@pytest.mark.parametrize("others", [[], [900]], ids=["alone", "beside another"])
def test_long_source_gives_its_memory_back(others: list[int]) -> None:
    """Rows that have had a long source do not keep it, also while there is room for another such."""
    sources = Sources(Encodes(), WIDE, 8, None)

    def encode(row: int, length: int) -> None:
        texts = [Encoding([5] * length)]
        sources.put(sources.run(texts), texts, [row])

    for length in others:
        encode(7, length)
    encode(6, 1000)
    sources.free(6)

    def one_after_the_other() -> None:
        for row in range(6):
            encode(row, 1000)
            sources.free(row)

    assert grown(sources._memory, one_after_the_other) < 1
    encode(0, 10)
    sources.free(0)
    assert all(float(tensor[0].max()) == 1 for tensor in sources._memory.tensors)  # a short one stays


def test_short_texts_keep_their_memory(model: CachedModel) -> None:
    """What the next text in a row is likely to take as well is not given back and taken again."""
    tokens = KEPT_ROW_BYTES // WIDE.token_bytes
    rows = model.new_rows(2)
    rows.read(0, [0] * tokens, 0)
    rows.free(0)
    assert all(float(tensor[0].max()) == 1 for tensor in rows._memory.tensors)
    rows.read(0, [0] * (tokens + 1), 0)
    rows.free(0)
    assert not any(float(tensor[0].max()) for tensor in rows._memory.tensors)
    rows.step(np.zeros(2, np.int64), np.zeros(2, np.int64), 0)  # for nobody
    rows.free(0)
    assert all(float(tensor[0].max()) == 1 for tensor in rows._memory.tensors)


def test_figures_of_a_row(model: CachedModel) -> None:
    """What texts take, and how many tokens of one fit into a room."""
    assert model.text_bytes(500) == ROW_BYTES
    assert model.capacity(100 * WIDE.token_bytes + 5) == 100
    assert model.capacity(1 << 40) == PLACES
    assert model.capacity(0) == 1
    row = KEPT_ROW_BYTES + 4 * 2 * 8 * 4096
    assert model.idle_row_bytes(500) == row + 3 * 4
    with_encoder = CachedModel(
        Writes(), Encodes(), WIDE, vocab_size=3, max_total_tokens=PLACES, start_id=1, end_ids=frozenset({2})
    )
    assert with_encoder.idle_row_bytes(500) == 2 * row + (3 + 4 * 8 * 500) * 4
