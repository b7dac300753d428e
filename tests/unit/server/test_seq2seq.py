"""The key/value cache: whatever joins, steps and leaves, each row's graph input is its own text's history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import count
from random import Random

import numpy as np
import pytest
from headwaiter_server.encoding import Encoding
from headwaiter_server.model.contract import Array, Cancellation, FloatArray
from headwaiter_server.model.seq2seq import CacheGeometry, Seq2SeqModel

BOS, EOS = 1, 2
CACHE = CacheGeometry(num_layers=2, num_heads=2, head_dim=4)


class GraphError(Exception):
    """What the graphs raise when they are told to."""


class Graphs:
    """An encoder and a step whose keys and values say whose they are.

    Every text has an id of its own, its first token, which its keys carry: cross keys are (id, column, token, where),
    self keys (id, position, token read, where). So the step knows what it must be given.

    Attributes:
        history: Tokens read so far by each text, by its id: what the caches are compared with.
        fault: "raise" before the result, "short": a result without its last output, or "nan": one number is none.
        feeds: What the last step was given.
        packs: Lengths of the texts of each encoder run.
    """

    inputs: list[str]
    outputs: list[str]

    def __init__(self) -> None:
        self.inputs = self.outputs = []
        self.history: dict[int, list[int]] = {}
        self.sources: dict[int, list[int]] = {}
        self.fault = ""
        self.feeds: Mapping[str, Array] = {}
        self.packs: list[list[int]] = []

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, Array], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        if self.fault == "raise":
            raise GraphError
        results = self._step(outputs, feeds) if "token" in feeds else self._encode(outputs, feeds)
        if self.fault == "nan":
            results[0][0, ..., 0] = np.nan
        return results[:-1] if self.fault == "short" else results

    def _encode(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[FloatArray]:
        assert set(feeds) == {"input_ids", "position_ids", "segment"}
        assert all(feed.dtype == np.int64 and feed.flags.c_contiguous for feed in feeds.values())
        ids, positions, segment = (feeds[name].tolist() for name in ("input_ids", "position_ids", "segment"))
        texts = [token for token, position in zip(ids, positions, strict=True) if position == 0]
        sources = [self.sources[text] for text in texts]
        self.packs.append([len(source) for source in sources])
        assert ids == [token for source in sources for token in source]
        assert positions == [position for source in sources for position in range(len(source))]
        assert segment == [index for index, source in enumerate(sources) for _ in source]
        return [
            np.concatenate(
                [keys(text, source, name).swapaxes(0, 1) for text, source in zip(texts, sources, strict=True)]
            )  # (tokens, heads, head_dim)
            for name in outputs
        ]

    def _step(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[FloatArray]:
        self.feeds = feeds
        rows = len(feeds["token"])
        for name, feed in feeds.items():
            assert feed.flags.c_contiguous, name
            assert np.isfinite(feed).all(), name
            assert len(feed) == rows, name
        texts = feeds["cross_key_0"][:, 0, 0, 0].astype(int).tolist()
        for row, text in enumerate(texts):
            read, source = self.history[text], self.sources[text]
            assert feeds["position"][row] == len(read)
            assert feeds["source_lengths"][row] == len(source)
            for name in (name for name in feeds if "_key_" in name or "_value_" in name):
                expected = keys(text, source if name.startswith("cross") else read, name)
                assert np.array_equal(feeds[name][row, :, : expected.shape[1]], expected), f"{name}, row {row}"
        logits = np.array([[text, len(self.history[text])] for text in texts], np.float32)
        columns = [
            np.stack(
                [
                    keys(text, [*self.history[text], token], name.replace("new", "self"))[:, -1]
                    for text, token in zip(texts, feeds["token"].tolist(), strict=True)
                ]
            )
            for name in outputs[1:]
        ]  # (rows, heads, head_dim) each
        return [logits, *columns]


def keys(text: int, tokens: Sequence[int], name: str) -> FloatArray:
    """Keys or values of one text, `(heads, tokens, head_dim)`; no two of them are alike."""
    kind, what, layer = name.split("_")
    where = 1000 * (kind == "cross") + 100 * (what == "value") + 10 * int(layer)
    result = np.empty((CACHE.num_heads, len(tokens), CACHE.head_dim), np.float32)
    result[..., 0] = text
    result[..., 1] = np.arange(len(tokens))
    result[..., 2] = tokens
    result[..., 3] = where + np.arange(CACHE.num_heads)[:, None]
    return result


class Decoding:
    """A batch beside what it must hold: the ids of its rows, in order."""

    def __init__(self) -> None:
        self.graphs = Graphs()
        model = Seq2SeqModel(self.graphs, self.graphs, CACHE, bos_id=BOS, eos_id=EOS)
        self.batch = model.new_batch()
        self.rows: list[int] = []
        self._ids = count(10)
        self._tokens = count(5000)

    def join(self, *lengths: int, into: Sequence[int] = ()) -> None:
        """Put texts of these lengths into the given rows, whose texts are done, then behind the last."""
        texts = [next(self._ids) for _ in lengths]
        sources = [[text, *range(100, 99 + length)] for text, length in zip(texts, lengths, strict=True)]
        self.graphs.sources |= dict(zip(texts, sources, strict=True))
        places = [*into, *range(len(self.rows), len(self.rows) + len(texts))][: len(texts)]
        self.batch.join([Encoding(source) for source in sources], places)
        self.graphs.history |= {text: [] for text in texts}
        self.rows += [0] * (max(places) + 1 - len(self.rows))
        for place, text in zip(places, texts, strict=True):
            self.rows[place] = text

    def step(self, start: int = 0, stop: int | None = None, times: int = 1) -> None:
        stop = len(self.rows) if stop is None else stop
        for _ in range(times):
            tokens = [next(self._tokens) for _ in range(start, stop)]
            logits = self.batch.step(np.array(tokens, np.int64), start, stop)
            stepped = self.rows[start:stop]
            assert logits.tolist() == [[text, len(self.graphs.history[text])] for text in stepped]
            for text, token in zip(stepped, tokens, strict=True):
                self.graphs.history[text].append(token)

    def keep(self, *rows: int) -> None:
        self.batch.keep(rows)
        self.rows = [self.rows[row] for row in rows]

    def room(self, name: str) -> tuple[int, int]:
        """Rows and columns of the buffer behind what the last step was given."""
        feed = self.graphs.feeds[name]
        assert feed.base is not None, "a copy was given instead of a view"
        return feed.base.shape[1], feed.base.shape[3]


def act(decoding: Decoding, random: Random) -> None:
    """Do one of the things that happen to a batch."""
    rows = len(decoding.rows)
    action = random.choice(["join", "step", "step some", "keep", "fail"])
    if rows == 0 or (action == "join" and rows < 24):
        freed = random.sample(range(rows), random.randint(0, rows))
        decoding.join(*[random.randint(1, 30) for _ in range(random.randint(1, 8))], into=freed)
    elif action == "step":
        decoding.step(times=random.randint(1, 10))
    elif action == "step some":
        start = random.randrange(rows)
        decoding.step(start, random.randint(start + 1, rows), random.randint(1, 10))
    elif action == "keep":
        decoding.keep(*random.sample(range(rows), random.choice([rows, rows - 1, rows // 2])))
    elif action == "fail":
        decoding.graphs.fault = random.choice(["raise", "short", "nan"])
        with pytest.raises((GraphError, ValueError)):
            decoding.join(random.randint(1, 60))
        with pytest.raises((GraphError, ValueError)):
            decoding.step(random.randrange(rows))
        decoding.graphs.fault = ""


@pytest.mark.parametrize("seed", range(25))
def test_every_row_holds_its_own_history_whatever_happens(seed: int) -> None:
    """After any sequence of joins, steps, moves and faults, each row's columns are those written for its text."""
    random = Random(seed)
    decoding = Decoding()
    for _ in range(60):
        act(decoding, random)


@pytest.mark.parametrize("fault", ["", "raise", "short", "nan"])
def test_step_of_newcomers_leaves_an_older_row_its_columns(fault: str) -> None:
    """Stepping only rows that have just begun, well or badly, takes nothing from one that is far ahead."""
    decoding = Decoding()
    decoding.join(3)
    decoding.step(times=40)
    decoding.join(3)
    decoding.graphs.fault = fault
    with pytest.raises((GraphError, ValueError)) if fault else nullcontext():
        decoding.step(1, 2)
    decoding.graphs.fault = ""
    decoding.step()


def test_buffers_grow_by_steps() -> None:
    """Rows, source and self-attention columns grow in steps of eight, so that most steps copy nothing."""
    decoding = Decoding()
    decoding.join(3)
    decoding.step()
    assert (decoding.room("self_key_0"), decoding.room("cross_key_0")) == ((8, 8), (8, 8))
    decoding.join(*[9] * 8)
    decoding.step(times=8)
    assert (decoding.room("self_value_1"), decoding.room("cross_value_1")) == ((16, 16), (16, 16))
    buffer = decoding.graphs.feeds["self_key_0"].base
    decoding.step(times=7)
    assert decoding.graphs.feeds["self_key_0"].base is buffer


def test_buffers_give_room_back() -> None:
    """When the long and the many have gone, later steps do not compute over their room."""
    decoding = Decoding()
    decoding.join(60, *[2] * 39)
    decoding.step(times=50)
    assert (decoding.room("self_key_0"), decoding.room("cross_key_0")) == ((40, 56), (40, 64))
    decoding.keep()
    decoding.join(2, 2)
    decoding.step()
    assert (decoding.room("self_key_0"), decoding.room("cross_key_0")) == ((8, 8), (8, 8))


def test_newcomers_are_encoded_in_packs() -> None:
    """Texts are encoded together up to the size of a pack, in their order; one that is longer has a run of its own."""
    decoding = Decoding()
    decoding.join(40, 50, 6, 1, 200, 60, 30)
    assert decoding.graphs.packs == [[40, 50, 6], [1], [200], [60, 30]]
    decoding.step()


def test_batches_of_a_model_share_nothing() -> None:
    """Two batches of one model, as two workers run them, do not see each other's rows."""
    graphs = Graphs()
    model = Seq2SeqModel(graphs, graphs, CACHE, bos_id=BOS, eos_id=EOS)
    assert (model.bos_id, model.eos_id) == (BOS, EOS)
    first, second = model.new_batch(), model.new_batch()
    graphs.sources, graphs.history = {10: [10, 5], 11: [11]}, {10: [], 11: []}
    first.join([Encoding([10, 5])], [0])
    second.join([Encoding([11])], [0])
    assert first.step(np.array([BOS]), 0, 1).tolist() == [[10, 0]]
    assert second.step(np.array([BOS]), 0, 1).tolist() == [[11, 0]]
