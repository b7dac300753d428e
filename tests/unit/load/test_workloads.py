"""Texts are made, read and replayed as the options say, and what makes no sense is refused by name."""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path

import pytest
from headwaiter_load import typed, words
from headwaiter_load.errors import BadInputError
from headwaiter_load.replay import TracedCall, read_trace
from headwaiter_load.requests import groups, made_groups, read_texts
from headwaiter_load.words import Lengths
from headwaiter_proto.v1 import inference_pb2


def lengths_of(text: str, count: int = 4000) -> list[int]:
    """Words of the first texts of a distribution."""
    made = itertools.islice(words.texts(Lengths.parsed(text), seed=1), count)
    return [len(each.split()) for each in made]


def test_lengths_follow_their_distribution() -> None:
    """Fixed lengths are all alike, uniform ones fill their range, lognormal ones have their median and a long tail."""
    assert set(lengths_of("fixed:7", 50)) == {7}
    uniform = lengths_of("uniform:3-9")
    assert set(uniform) == set(range(3, 10))
    assert statistics.fmean(uniform) == pytest.approx(6, rel=0.05)
    lognormal = lengths_of("lognormal:20,0.6")
    assert statistics.median(lognormal) == pytest.approx(20, rel=0.06)
    assert statistics.quantiles(lognormal, n=100)[98] == pytest.approx(81, rel=0.15)


@pytest.mark.parametrize(
    "text",
    ["", "fixed", "fixed:0", "fixed:-3", "fixed:2.5", "uniform:9-3", "uniform:0-3", "lognormal:12", "normal:3,4"],
)
def test_other_distributions_are_refused(text: str) -> None:
    """A distribution that is none is named."""
    with pytest.raises(BadInputError, match=repr(text)):
        Lengths.parsed(text)


def test_texts_repeat_with_their_seed() -> None:
    """The same seed makes the same texts."""
    first, again, other = (list(itertools.islice(words.texts(Lengths("fixed", 9), seed), 20)) for seed in (1, 1, 2))
    assert first == again != other


def test_texts_of_a_file_come_in_order_and_fill_the_last_call(tmp_path: Path) -> None:
    """Blank lines are skipped; the last call begins again with the first texts."""
    path = tmp_path / "texts.txt"
    path.write_text("eins\n\nzwei\ndrei \u00fc\n")
    assert read_texts(path) == ["eins", "zwei", "drei \u00fc"]
    assert groups(read_texts(path), 2) == [("eins", "zwei"), ("drei \u00fc", "eins")]
    assert made_groups(iter("abcdef"), 2, 3) == [("a", "b"), ("c", "d"), ("e", "f")]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe"])
def test_files_without_texts_are_refused(tmp_path: Path, content: bytes) -> None:
    """Empty files and other encodings are refused by name."""
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"texts\.txt"):
        read_texts(path)


def write_trace(path: Path, *lines: object) -> Path:
    """A trace file."""
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_a_trace_has_its_texts_lengths_and_deadlines(tmp_path: Path) -> None:
    """Texts are taken as they are; for lengths, texts of so many words are made, the same for the same seed."""
    path = write_trace(
        tmp_path / "trace.jsonl",
        {"offset_seconds": 0, "texts": ["a", "b"], "deadline_seconds": 0.5},
        "",
        {"offset_seconds": 0.25, "lengths": [3, 11]},
        {"offset_seconds": 0.25, "lengths": [1], "deadline_seconds": None},
    )
    calls = read_trace(path, seed=4)
    assert calls[0] == TracedCall(0.0, ("a", "b"), 0.5)
    assert [(call.offset_seconds, call.deadline_seconds) for call in calls[1:]] == [(0.25, None), (0.25, None)]
    assert [[len(text.split()) for text in call.texts] for call in calls[1:]] == [[3, 11], [1]]
    assert read_trace(path, seed=4) == calls


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2"),
        ([], "no JSON object"),
        ({"offset_seconds": 2}, "either texts or lengths"),
        ({"offset_seconds": 2, "texts": ["a"], "lengths": [1]}, "either texts or lengths"),
        ({"offset_seconds": 2, "texts": []}, "texts is no list"),
        ({"offset_seconds": 2, "texts": "abc"}, "texts is no list"),
        ({"offset_seconds": 2, "lengths": [0]}, "lengths is no list of whole numbers from 1"),
        ({"offset_seconds": 2, "lengths": [True]}, "lengths is no list of whole numbers from 1"),
        ({"texts": ["a"]}, "offset_seconds is None"),
        ({"offset_seconds": "2", "texts": ["a"]}, "offset_seconds is '2'"),
        ({"offset_seconds": True, "texts": ["a"]}, "offset_seconds is True"),
        ({"offset_seconds": 0.5, "texts": ["a"]}, "before the line above"),
        ({"offset_seconds": 2, "texts": ["a"], "deadline_seconds": 0}, "deadline_seconds is 0"),
        ({"offset_seconds": 2, "texts": ["a"], "priority": 1}, "unknown field 'priority'"),
    ],
)
def test_bad_lines_of_a_trace_are_refused(tmp_path: Path, line: object, said: str) -> None:
    """File, line and what is wrong are named."""
    path = write_trace(tmp_path / "trace.jsonl", {"offset_seconds": 1, "texts": ["a"]}, line)
    with pytest.raises(BadInputError, match=rf"trace\.jsonl, line 2: .*{said}" if said != "line 2" else said):
        read_trace(path, seed=0)


def test_an_empty_trace_is_refused(tmp_path: Path) -> None:
    """A trace without calls is no load."""
    with pytest.raises(BadInputError, match="holds no calls"):
        read_trace(write_trace(tmp_path / "trace.jsonl", "\n"), seed=0)


def test_requests_say_what_was_asked_for() -> None:
    """Model, version and the task's own fields are in every message, with the texts of its call."""
    asked = typed.Asked("m", 3, truncate=True, query="q?", max_new_tokens=5)
    calls = [("a", "b"), ("c",)]
    rerank = typed.typed_requests("rerank", asked, calls, stream=False)
    assert rerank.path == "/headwaiter.v1.InferenceService/Rerank"
    assert rerank.rows == (2, 1)
    assert inference_pb2.RerankRequest.FromString(rerank.payloads[0]) == inference_pb2.RerankRequest(
        model="m", version=3, query="q?", texts=["a", "b"], truncate=True
    )
    generate = typed.typed_requests("generate", asked, calls, stream=False)
    assert inference_pb2.GenerateRequest.FromString(generate.payloads[1]) == inference_pb2.GenerateRequest(
        model="m", version=3, texts=["c"], max_new_tokens=5
    )


def test_few_tasks_have_a_stream() -> None:
    """Other tasks are refused."""
    assert typed.typed_requests("embed", typed.Asked(), [("a",)], stream=True).exchange == "embed-stream"
    with pytest.raises(BadInputError, match="classify has no stream"):
        typed.typed_requests("classify", typed.Asked(), [("a",)], stream=True)
