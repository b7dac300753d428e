"""The command that shows what happened to a text."""

from __future__ import annotations

import json
import re
import statistics
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.message import Message
from headwaiter.explanation import Stages, _batches
from headwaiter.results import Timings
from headwaiter.timeline import duration, timeline
from headwaiter_proto.v1 import bundle_pb2, inference_pb2
from unit.client.scripted_server import bad_request, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from unit.client.scripted_server import Script, ScriptedServer

Run = Any  # what the fixture `headwaiter` gives

TIMINGS = inference_pb2.Timings(
    total_seconds=0.001,
    tokenize_seconds=0.0001,
    queue_seconds=0.0002,
    inference_seconds=0.0004,
    batch_size=3,
    batch_tokens=40,
    batch_id=7,
)
READING = inference_pb2.Reading(tokens=[4])


def tokenize(raw: bytes, context: grpc.ServicerContext) -> bytes:
    text = inference_pb2.TokenizeRequest.FromString(raw).texts[0]
    if len(text) > 100:
        return refuse(
            context,
            grpc.StatusCode.INVALID_ARGUMENT,
            "texts[0]: is too long",
            detail=bad_request("texts[0]", "is too long"),
        )
    tokens = ["[CLS]", *text.split(), "[SEP]"]
    response = inference_pb2.TokenizeResponse(tokenizations=[inference_pb2.Tokenization(tokens=tokens)])
    return response.SerializeToString()


def answers(method: str, **fields: Any) -> Script:  # noqa: ANN401 - a response's
    kind: type[Message] = getattr(inference_pb2, f"{method}Response")
    return lambda raw, context: kind(
        model="m", version=1, variant="fp32", timings=TIMINGS, **fields
    ).SerializeToString()


TASKS: dict[str, tuple[str, Script, list[str], str]] = {
    "generate": (
        "Generate",
        answers("Generate", generations=[inference_pb2.Generation(text="G N", token_ids=[1, 2, 3], source_tokens=4)]),
        [],
        "'G N', 3 tokens",
    ),
    "embed": (
        "Embed",
        answers("Embed", vectors=b"\0" * 8, dimension=2, reading=inference_pb2.Reading(tokens=[5])),
        [],
        "a vector of 2 numbers",
    ),
    "classify": (
        "Classify",
        answers(
            "Classify",
            labels=["bad", "good"],
            classifications=[inference_pb2.Classification(scores=[0.25, 0.75])],
            reading=READING,
        ),
        [],
        "good (0.7500)",
    ),
    "tag": (
        "Tag",
        answers(
            "Tag",
            taggings=[inference_pb2.Tagging(spans=[inference_pb2.Span(start=0, end=3, label="PER", score=1)])],
            reading=READING,
        ),
        [],
        "Ada=PER",
    ),
    "rerank": (
        "Rerank",
        answers("Rerank", ranking=[inference_pb2.RankedText(index=0, score=0.5)], reading=READING),
        ["--query", "who?"],
        "score 0.5000",
    ),
}


@pytest.fixture
def serving(serve: Callable[..., ScriptedServer]) -> Callable[[str], ScriptedServer]:
    """Starts a server with one model that does this task."""

    def start(task: str) -> ScriptedServer:
        info = inference_pb2.ModelInfo(
            name="m",
            version=1,
            task=f"TASK_{task.upper()}",
            variant="fp32",
        )
        if task == "embed":
            info.embedding.MergeFrom(bundle_pb2.Embedding(prompts={"query": "find "}, default_prompt="query"))
        method, script, _, _ = TASKS.get(task, TASKS["embed"])
        get_model = inference_pb2.GetModelResponse(model=info).SerializeToString()
        return serve({"GetModel": lambda raw, context: get_model, "Tokenize": tokenize, method: script})

    return start


@pytest.mark.parametrize("task", TASKS)
def test_every_task(task: str, headwaiter: Run, serving: Callable[[str], ScriptedServer]) -> None:
    """Whatever the model does: its tokens, its answer, the stages with units and bars, the batch."""
    server = serving(task)
    method, _, options, answer = TASKS[task]
    code, out, err = headwaiter("explain", "Ada wrote", *options, "--target", server.target)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    tokens = "5: [CLS] find Ada wrote [SEP]" if task == "embed" else "4: [CLS] Ada wrote [SEP]"
    assert lines[:4] == [f"m version 1 ({task}, fp32)", "", f"tokens  {tokens}", f"answer  {answer}"]
    # Whether all this takes a millisecond is the machine's affair.
    assert re.fullmatch(r"network and gRPC +\d+\.\d\d [mµ]s(  █+)?", lines[5])
    for line, (name, figure) in zip(
        lines[6:10],
        (
            ("tokenizing", "0.10 ms|100.00 µs"),
            ("waiting in the queue", "0.20 ms|200.00 µs"),
            ("inference", "0.40 ms|400.00 µs"),
            ("rest of the server", "0.30 ms|300.00 µs"),
        ),
        strict=True,
    ):
        assert re.fullmatch(rf"{name} +({figure}) +█+", line)
    assert re.fullmatch(r"total +\d+\.\d\d [mµ]s", lines[10])
    assert lines[11:] == ["", "batch 7: 3 texts, 40 tokens"]
    assert [call.method for call in server.calls] == ["GetModel", method, method, "Tokenize"]


def test_medians_of_several_calls(headwaiter: Run, serving: Callable[[str], ScriptedServer]) -> None:
    """As many calls as were asked for, after one that is not counted; medians, and the range."""
    server = serving("embed")
    code, out, _ = headwaiter("explain", "Ada wrote", "--repeat", "3", "--target", server.target)
    assert code == 0
    assert [call.method for call in server.calls].count("Embed") == 4
    assert re.search(r"^median of 3 calls +\d+\.\d\d [mµ]s$", out, re.MULTILINE)
    assert re.search(r"^fastest \d+\.\d\d [mµ]s, slowest \d+\.\d\d [mµ]s$", out, re.MULTILINE)
    assert out.endswith("\nbatches of 3 texts, 40 tokens; the last was batch 7\n")


def test_generated_tokens_have_a_pace(headwaiter: Run, serve: Callable[..., ScriptedServer]) -> None:
    """When the first token came, and how fast the others did; a long text is shortened; as many tokens as asked for."""
    info = inference_pb2.ModelInfo(name="m", version=1, task="TASK_GENERATE", variant="fp32")
    long = inference_pb2.Generation(text="ab" * 130, token_ids=range(5), token_seconds=[0.5, 0.6, 0.7, 0.8, 0.9])
    server = serve(
        {
            "GetModel": lambda raw, context: inference_pb2.GetModelResponse(model=info).SerializeToString(),
            "Tokenize": tokenize,
            "Generate": answers("Generate", generations=[long]),
        }
    )
    arguments = ["explain", "Ada wrote", "--max-new-tokens", "5", "--target", server.target]
    out = headwaiter(*arguments)[1]
    assert f"answer  '{'ab' * 100}' ... and 60 characters more, 5 tokens\n" in out
    assert "first token after 500.00 ms in the server, then one each 100.00 ms (10/s)\n" in out
    generate = [call for call in server.calls if call.method == "Generate"]
    assert {inference_pb2.GenerateRequest.FromString(call.request).max_new_tokens for call in generate} == {5}
    told = json.loads(headwaiter(*arguments, "--json")[1])
    assert (told["first_token_seconds"], told["seconds_between_tokens"]) == (0.5, pytest.approx(0.1))


def test_json(headwaiter: Run, serving: Callable[[str], ScriptedServer]) -> None:
    """One object with everything: medians of the stages, and what was measured of each call."""
    code, out, _ = headwaiter("explain", "Ada wrote", "--json", "--repeat", "2", "--target", serving("tag").target)
    told = json.loads(out)
    assert code == 0
    assert (told["input"], told["task"], told["tokens"], told["calls"]) == (
        "Ada wrote",
        "tag",
        ["[CLS]", "Ada", "wrote", "[SEP]"],
        2,
    )
    totals = [each["client_seconds"] for each in told["each"]]
    assert told["median_seconds"]["total"] == pytest.approx(statistics.median(totals))
    stages = {name: value for name, value in told["median_seconds"].items() if name not in ("total", "network")}
    assert stages == pytest.approx({"tokenize": 0.0001, "queue": 0.0002, "inference": 0.0004, "other": 0.0003})
    assert told["each"][0]["batch_id"] == 7


def test_text_that_is_cut_needs_no_list_of_tokens(headwaiter: Run, serving: Callable[[str], ScriptedServer]) -> None:
    """A text that the model takes cut, and that is too long for `Tokenize`, is explained all the same."""
    out = headwaiter("explain", "a " * 100, "--truncate", "--target", serving("tag").target)[1]
    assert "tokens  4: the text is too long to list them\n" in out


def test_many_tokens_are_shortened(headwaiter: Run, serving: Callable[[str], ScriptedServer]) -> None:
    """A person is shown the first forty."""
    out = headwaiter("explain", "a " * 48, "--target", serving("tag").target)[1]
    assert "a a a ... and 10 more" in out


@pytest.mark.parametrize(
    ("task", "options", "complaint"),
    [
        ("rerank", [], "--query"),
        ("embed", ["--query", "who?"], "--query means nothing to 'm', whose task is to embed"),
        ("tag", ["--second-text", "b"], "--second-text means nothing"),
        ("generate", ["--truncate"], "--truncate means nothing"),
        ("embed", ["--max-new-tokens", "3"], "--max-new-tokens means nothing"),
        ("tensor", [], "takes no text"),
    ],
)
def test_options_that_do_not_suit_the_task(
    task: str, options: list[str], complaint: str, headwaiter: Run, serving: Callable[[str], ScriptedServer]
) -> None:
    """What a model needs and has not, or has and cannot use, is a wrong usage that is named; nothing is sent."""
    server = serving(task)
    code, out, err = headwaiter("explain", "Ada", *options, "--target", server.target)
    assert (code, out) == (2, "")
    assert complaint in err
    assert [call.method for call in server.calls] == ["GetModel"]


def test_batches_that_differ() -> None:
    """Of several calls the range and the middle of what shared their runs."""
    timings = tuple(Timings(0.5, 0.1, 0.1, 0.1, size, 10, size) for size in (4, 1, 2))
    assert _batches(timings) == "batches of 1 to 4 texts (median 2), 10 tokens; the last was batch 2"


def test_stages_make_up_the_whole() -> None:
    """Every part of a call is in one stage; clocks that disagree by a little make none of them negative."""
    timings = Timings(0.5, 0.125, 0.0625, 0.25, 1, 2, 3)
    assert Stages.of(0.75, timings) == Stages(0.25, 0.125, 0.0625, 0.25, 0.0625)
    assert Stages.of(0.4, timings).network == 0.0


def test_timeline() -> None:
    """Names and figures are aligned in the unit of the whole, and bars follow one another to the end."""
    assert timeline(
        [("a", 0.010), ("longer", 0.025), ("none", 0.0), ("b", 0.00001), ("c", 0.005)], ("all", 0.041), "#"
    ) == [
        "a       10.00 ms  ##########",
        "longer  25.00 ms            #########################",
        "none     0.00 ms",
        "b        0.01 ms                                     #",
        "c        5.00 ms                                     #####",
        "all     41.00 ms",
    ]
    assert timeline([("a", 0.0)], ("all", 0.0)) == ["a    0.00 µs", "all  0.00 µs"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0000125, "12.50 µs"), (0.0125, "12.50 ms"), (9.9, "9900.00 ms"), (12.5, "12.50 s")]
)
def test_durations_have_the_unit_that_suits_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_terminal_that_knows_no_blocks(
    headwaiter: Run, serving: Callable[[str], ScriptedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bars are made of what the output's encoding has."""
    monkeypatch.setattr("headwaiter.explanation.BAR", "\udcff")
    out = headwaiter("explain", "Ada wrote", "--target", serving("tag").target)[1]
    assert re.search(r"inference +\S+ [mµ]s +#+\n", out)
