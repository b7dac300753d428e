"""The commands for encoders."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import struct
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from headwaiter import AsyncClient, bulk
from headwaiter.cli_embed import _streamed
from headwaiter_proto.v1 import inference_pb2
from unit.client.scripted_server import bad_request, refuse
from unit.client.test_cli_process import HEADWAITER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from unit.client.scripted_server import ScriptedServer

Run = Any  # what the fixture `headwaiter` gives


def embedded(request: inference_pb2.EmbedRequest) -> inference_pb2.EmbedResponse:
    """Each text's vector is its length and a tenth."""
    vectors = b"".join(struct.pack("<2f", len(text), 0.1) for text in request.texts)
    return inference_pb2.EmbedResponse(model="e", vectors=vectors, dimension=2)


def embed(raw: bytes, context: grpc.ServicerContext) -> bytes:
    request = inference_pb2.EmbedRequest.FromString(raw)
    if "bad" in request.texts:
        detail = bad_request(f"texts[{list(request.texts).index('bad')}]", "is bad")
        return refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "refused", detail=detail)
    return embedded(request).SerializeToString()


def embed_stream(raw: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    for each in raw:
        message = inference_pb2.EmbedStreamRequest.FromString(each)
        response = inference_pb2.EmbedStreamResponse(id=message.id)
        if "bad" in message.request.texts:
            index = list(message.request.texts).index("bad")
            response.error.MergeFrom(inference_pb2.StreamError(code=3, message=f"texts[{index}]: is bad"))
        else:
            response.response.MergeFrom(embedded(message.request))
        yield response.SerializeToString()


@pytest.fixture
def target(serve: Callable[..., ScriptedServer]) -> str:
    """A server that embeds, by calls and by streams."""
    return serve({"Embed": embed}, streams={"EmbedStream": embed_stream}).target


@pytest.mark.parametrize("way", ["--stream", "--calls"])
def test_embed_json_lines(headwaiter: Run, target: str, tmp_path: Path, way: str) -> None:
    """Texts in a field of JSON lines become vectors in JSON lines, in their order, exact to the last digit."""
    words = [f"wörd {'x' * (number % 5)}" for number in range(100)]
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"id": 1, "body": word}) + "\n\n" for word in words))
    code, out, err = headwaiter("embed", str(source), "--field", "body", way, "--target", target)
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["input"] for line in lines] == words
    for line in lines:
        assert np.array(line["vector"], np.float32).tolist() == np.array([len(line["input"]), 0.1], np.float32).tolist()


@pytest.mark.parametrize("way", ["--stream", "--calls"])
def test_embed_to_numpy(headwaiter: Run, target: str, tmp_path: Path, way: str) -> None:
    """A .npy file holds what numpy reads, whatever the number of lines."""
    for count in (0, 1, 75):
        source, output = tmp_path / "texts.txt", tmp_path / "vectors.npy"
        source.write_text("line\n" * count)
        arguments = ("embed", str(source), "--output", str(output), way, "--target", target)
        assert headwaiter(*arguments) == (0, "", "")
        vectors = np.load(output, allow_pickle=False)
        assert (vectors.dtype, len(vectors)) == (np.float32, count)
        assert vectors.tolist() == [np.array([4, 0.1], np.float32).tolist()] * count


def test_embed_standard_input(headwaiter: Run, target: str) -> None:
    """Lines of the standard input are texts, or JSON if that is said."""
    code, out, _ = headwaiter("embed", "--target", target, stdin=b"abc\n")
    assert (code, out) == (0, '{"input": "abc", "vector": [3, 0.100000001]}\n')
    code, out, _ = headwaiter("embed", "-", "--jsonl", "--target", target, stdin=b'{"text": "ab"}\n')
    assert (code, json.loads(out)["input"]) == (0, "ab")


@pytest.mark.parametrize("way", ["--stream", "--calls"])
def test_embed_names_the_line(headwaiter: Run, target: str, tmp_path: Path, way: str) -> None:
    """What came before a refused line is in the file, and the line is named by its number."""
    source, output = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    source.write_text("line\n" * 40 + "bad\n" + "line\n" * 40)
    code, _, err = headwaiter("embed", str(source), "--output", str(output), way, "--target", target)
    assert (code, err) == (1, "headwaiter: line 41: is bad\n")
    assert len(np.load(output, allow_pickle=False)) == 32


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is no JSON"),
        ("[1]", "line 2 is no JSON object with a text in its field 'text'"),
        ('{"text": 5}', "'text'"),
        ('{"body": "a"}', "'text'"),
    ],
)
def test_embed_refuses_other_lines(headwaiter: Run, target: str, tmp_path: Path, line: str, words: str) -> None:
    """A line that holds no text says so."""
    source = tmp_path / "texts.jsonl"
    source.write_text(f'{{"text": "a"}}\n{line}\n')
    code, _, err = headwaiter("embed", str(source), "--target", target)
    assert code == 1
    assert words in err


@pytest.mark.parametrize("way", ["--stream", "--calls"])
def test_embed_gives_up_on_a_silent_server(headwaiter: Run, serve: Callable[..., ScriptedServer], way: str) -> None:
    """With --timeout a server that takes texts and never answers ends the command, by stream and by calls."""

    def never(raw: bytes | Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        gone = threading.Event()
        # False says that the call has ended already.
        if context.add_callback(gone.set):
            gone.wait()
        return b""

    target = serve({"Embed": never}, streams={"EmbedStream": never}).target
    code, out, err = headwaiter("embed", way, "--timeout", "0.2", "--target", target, stdin=b"a\nb\n")
    assert (code, out) == (1, "")
    assert err.startswith("headwaiter: line 1: no answer within 0.2 s" if way == "--stream" else "headwaiter: ")


async def test_embed_waits_for_slow_input(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time in which no answer is due does not count against --timeout, however long it is."""
    skipped_seconds, answered = [0.0], asyncio.Event()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: time.monotonic() + skipped_seconds[0])

    async def batches() -> AsyncIterator[list[bulk.Text]]:
        yield [bulk.Text("line 1", b"a")]
        await answered.wait()
        skipped_seconds[0] += 3600
        # A timer that runs would go off in between.
        for _ in range(5):
            await asyncio.sleep(0)
        yield [bulk.Text("line 2", b"bc")]

    texts = []
    async with AsyncClient(target) as client:
        async for each in _streamed(client, batches(), {}, patience_seconds=60):
            texts.append(each.texts)
            answered.set()
    assert texts == [("a",), ("bc",)]


@pytest.mark.parametrize("way", ["--stream", "--calls"])
def test_embed_shows_its_progress_on_a_terminal(serve: Callable[..., ScriptedServer], tmp_path: Path, way: str) -> None:
    """A bar tells how many of the file's texts are done: as each batch is answered, and all of them in the end."""
    first_seen = threading.Event()

    def after_the_first(answers: Iterator[bytes]) -> Iterator[bytes]:
        for index, answer in enumerate(answers):
            if index:
                first_seen.wait(60)
            yield answer

    def embed_slowly(raw: bytes, context: grpc.ServicerContext) -> bytes:
        if "first" not in inference_pb2.EmbedRequest.FromString(raw).texts:
            first_seen.wait(60)
        return embed(raw, context)

    def stream_slowly(raw: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        return after_the_first(embed_stream(raw, context))

    server = serve({"Embed": embed_slowly}, streams={"EmbedStream": stream_slowly})
    source, output = tmp_path / "texts.jsonl", tmp_path / "vectors.npy"
    source.write_text("".join(f'{{"text": "{word}"}}\n\n' for word in ["first", *["more"] * 79]))
    command = [*HEADWAITER, "embed", str(source), "--output", str(output), way, "--target", server.target]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while b"32/80" not in seen:
            seen += os.read(ours, 1000)
        assert b"embedding" in seen
        assert b"64/80" not in seen
        first_seen.set()
        while b"80/80" not in seen:
            seen += os.read(ours, 1000)
        assert process.stdout is not None
        assert process.stdout.read() == b""
        assert process.wait(timeout=60) == 0
    os.close(ours)
    # A turn of the bar may be drawn more than once.
    assert list(dict.fromkeys(re.findall(rb"(\d+)/80", seen))) == [b"0", b"32", b"64", b"80"]
    assert len(np.load(output, allow_pickle=False)) == 80


def test_embed_options_reach_the_server(headwaiter: Run, serve: Callable[..., ScriptedServer]) -> None:
    """What the options say stands in the request."""
    server = serve({"Embed": embed})
    options = ("--model", "m", "--version", "2", "--prompt", "q", "--dimensions", "7", "--no-normalize", "--truncate")
    assert headwaiter("embed", "--calls", *options, "--target", server.target, stdin=b"a\n")[0] == 0
    assert inference_pb2.EmbedRequest.FromString(server.calls[0].request) == inference_pb2.EmbedRequest(
        model="m", version=2, texts=["a"], prompt="q", dimensions=7, normalize=False, truncate=True
    )


def classify(raw: bytes, context: grpc.ServicerContext) -> bytes:
    request = inference_pb2.ClassifyRequest.FromString(raw)
    each = [inference_pb2.Classification(scores=[0.25, 0.75]) for _ in request.texts]
    return inference_pb2.ClassifyResponse(model="c", labels=["no", "yes"], classifications=each).SerializeToString()


def test_classify(headwaiter: Run, serve: Callable[..., ScriptedServer]) -> None:
    """The best label and its score, or all of them as JSON."""
    target = serve({"Classify": classify}).target
    assert headwaiter("classify", "a", "b", "--target", target) == (0, "yes\t0.7500\nyes\t0.7500\n", "")
    assert headwaiter("classify", "--target", target, stdin=b"a\n\nb\n")[1].count("yes") == 2
    out = headwaiter("classify", "a", "--json", "--target", target)[1]
    assert json.loads(out) == {
        "input": "a",
        "scores": {"no": 0.25, "yes": 0.75},
        "model": "c",
        "version": 0,
        "variant": "",
    }


def tag(raw: bytes, context: grpc.ServicerContext) -> bytes:
    request = inference_pb2.TagRequest.FromString(raw)
    spans = [
        inference_pb2.Span(start=0, end=3, label="PER", score=0.5),
        inference_pb2.Span(start=7, end=12, label="LOC", score=0.25 + 0.5 * request.aggregation),
    ]
    return inference_pb2.TagResponse(taggings=[inference_pb2.Tagging(spans=spans)]).SerializeToString()


def test_tag(headwaiter: Run, serve: Callable[..., ScriptedServer]) -> None:
    """Stretches of the text with their labels."""
    target = serve({"Tag": tag}).target
    assert headwaiter("tag", "Adé in Paris", "--target", target) == (0, "Adé=PER\tParis=LOC\n", "")
    out = headwaiter("tag", "Adé in Paris", "--json", "--tokens", "--target", target)[1]
    assert json.loads(out)["spans"][1] == {"text": "Paris", "start": 7, "end": 12, "label": "LOC", "score": 0.75}


def rerank(raw: bytes, context: grpc.ServicerContext) -> bytes:
    request = inference_pb2.RerankRequest.FromString(raw)
    if "bad" in request.texts:
        detail = bad_request(f"texts[{list(request.texts).index('bad')}]", "is bad")
        return refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "refused", detail=detail)
    ranking = [inference_pb2.RankedText(index=index, score=0.5) for index in reversed(range(len(request.texts)))]
    return inference_pb2.RerankResponse(ranking=ranking[: request.top_n or None]).SerializeToString()


def test_rerank(headwaiter: Run, serve: Callable[..., ScriptedServer]) -> None:
    """Texts come in the order of the answer; all lines go in one call."""
    server = serve({"Rerank": rerank})
    assert headwaiter("rerank", "q", "a", "b", "--target", server.target) == (0, "0.5000\tb\n0.5000\ta\n", "")
    out = headwaiter("rerank", "q", "-", "--top", "1", "--json", "--target", server.target, stdin=b"line\n" * 100)[1]
    assert {key: json.loads(out)[key] for key in ("index", "text", "score")} == {
        "index": 99,
        "text": "line",
        "score": 0.5,
    }
    assert len(server.calls) == 2
    code, _, err = headwaiter("rerank", "q", "a", "bad", "--target", server.target)
    assert (code, err) == (1, "headwaiter: text 2: is bad\n")
    assert headwaiter("rerank", "q", "--target", server.target) == (0, "", "")


def tokenize(raw: bytes, context: grpc.ServicerContext) -> bytes:
    each = inference_pb2.Tokenization(ids=[1, 2], tokens=["[CLS]", "a"], starts=[0, 0], ends=[0, 1])
    return inference_pb2.TokenizeResponse(model="t", version=1, tokenizations=[each]).SerializeToString()


def test_tokenize(headwaiter: Run, serve: Callable[..., ScriptedServer]) -> None:
    """Tokens as the vocabulary writes them, or everything as JSON."""
    target = serve({"Tokenize": tokenize}).target
    assert headwaiter("tokenize", "a", "--target", target) == (0, "[CLS] a\n", "")
    assert json.loads(headwaiter("tokenize", "a", "--json", "--target", target)[1]) == {
        "input": "a",
        "ids": [1, 2],
        "tokens": ["[CLS]", "a"],
        "starts": [0, 0],
        "ends": [0, 1],
        "model": "t",
        "version": 1,
    }
