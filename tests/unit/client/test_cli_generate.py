"""`headwaiter generate`: whole or as it comes, with candidates, probabilities and everything as JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from headwaiter_proto.v1 import inference_pb2
from unit.client.scripted_generation import Endless, finished, piece, stream_of, told, upper_case_stream
from unit.client.scripted_server import bad_request, refuse
from unit.client.test_cli_process import HEADWAITER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from unit.client.scripted_server import ScriptedServer

Run = Any  # what the fixture `headwaiter` gives
Serve = Any  # what the fixture `serve` gives

RANKED = inference_pb2.Generation(
    text="best",
    token_ids=[4, 5],
    score=-0.25,
    alternatives=[
        inference_pb2.Hypothesis(
            text="next", token_ids=[6], score=-0.5, finish_reason=inference_pb2.FINISH_REASON_END_OF_SEQUENCE
        )
    ],
    finish_reason=inference_pb2.FINISH_REASON_END_OF_SEQUENCE,
    source_tokens=3,
)
LIKELY = inference_pb2.Generation(
    text="ab",
    token_ids=[4, 1005],
    finish_reason=inference_pb2.FINISH_REASON_STOP,
    stopped_by="c",
    seed=11,
    source_tokens=3,
    token_seconds=[0.1, 0.2],
    logprobs=[
        inference_pb2.TokenLogprob(
            token="Ġan",  # noqa: S106 - no secret
            logprob=-0.0513,
            top_token_ids=[4, 9],
            top_tokens=["Ġan", "\x1b"],
            top_logprobs=[-0.0513, -3.0],
        ),
        inference_pb2.TokenLogprob(logprob=-2.3026, top_token_ids=[8], top_logprobs=[-0.2]),
    ],
    attention=inference_pb2.Attention(
        layers=1, heads=1, source_tokens=["x"], tokens=["a", "b"], weights=b"\0\0\x80\x3f" * 2
    ),
)


def answering(*generations: inference_pb2.Generation) -> dict[str, Any]:
    response = inference_pb2.GenerateResponse(model="m", version=1, variant="fp32", generations=generations)
    return {"Generate": lambda raw, context: response.SerializeToString()}


@pytest.fixture
def server(serve: Callable[..., ScriptedServer]) -> ScriptedServer:
    """A server that generates upper case, whole or piece by piece."""
    return serve(answer_streams={"GenerateStream": upper_case_stream})


def test_every_option_is_sent(headwaiter: Run, server: ScriptedServer) -> None:
    """Options have the names of the fields, with dashes."""
    options: dict[str, Any] = {
        "model": "m",
        "version": 2,
        "max_new_tokens": 5,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.75,
        "repetition_penalty": 1.5,
        "seed": 0,
        "num_beams": 4,
        "num_return_sequences": 2,
        "length_penalty": -0.5,
        "stop": ["a", "b"],
        "stop_token_ids": [7, 8],
        "logprobs": 0,
    }
    arguments = []
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            arguments += [f"--{name.replace('_', '-')}", str(each)]
    for way in ("--stream", "--no-stream"):
        assert headwaiter("generate", "x", *arguments, "--attention", "--json", way, "--target", server.target)[0] == 0
    assert [call.method for call in server.calls] == ["GenerateStream", "Generate"]
    for call in server.calls:
        request = inference_pb2.GenerateRequest.FromString(call.request)
        assert request == inference_pb2.GenerateRequest(texts=["x"], attention=True, **options)
        assert {field.name for field, _ in request.ListFields()} == {"texts", "attention", *options}


def test_candidates_have_scores(headwaiter: Run, serve: Serve) -> None:
    """Of beam search with several answers: a line each, best first, also where only one was found, and as a stream."""
    whole = inference_pb2.Generation.FromString(RANKED.SerializeToString())
    alone = inference_pb2.Generation(text="alone", score=-1.0)
    message = piece(0, "best")
    message.finished.CopyFrom(whole)
    message.finished.ClearField("text")
    server = serve(answering(RANKED, alone), answer_streams={"GenerateStream": stream_of(message)})
    options = ("--num-beams", "4", "--num-return-sequences", "2", "--target", server.target)
    assert headwaiter("generate", "x", "y", *options) == (0, "-0.2500\tbest\n-0.5000\tnext\n-1.0000\talone\n", "")
    assert headwaiter("generate", "x", "--stream", *options) == (0, "-0.2500\tbest\n-0.5000\tnext\n", "")
    out = headwaiter("generate", "x", "y", "--json", *options)[1]
    first = json.loads(out.splitlines()[0])
    assert (first["score"], first["alternatives"]) == (
        -0.25,
        [{"text": "next", "token_ids": [6], "score": -0.5, "finish_reason": "end_of_sequence"}],
    )


def test_probabilities_are_readable(headwaiter: Run, serve: Serve) -> None:
    """Below each text a line for each token, with the likeliest at its place; ids where names are not told."""
    server = serve(answering(LIKELY))
    code, out, _ = headwaiter("generate", "x", "--logprobs", "2", "--target", server.target)
    assert code == 0
    assert out.splitlines() == [
        "ab",
        "  Ġan    95.0 %    -0.0513  Ġan 95.0 %  \ufffd 5.0 %",
        "  1005   10.0 %    -2.3026  8 81.9 %",
    ]


def test_json_has_all_that_there_is(headwaiter: Run, serve: Serve) -> None:
    """What was asked for stands there, what was not does not."""
    server = serve(answering(LIKELY))
    told_of = json.loads(headwaiter("generate", "x", "--json", "--attention", "--target", server.target)[1])
    assert told_of == {
        "input": "x",
        "text": "ab",
        "token_ids": [4, 1005],
        "finish_reason": "stop",
        "stopped_by": "c",
        "seed": 11,
        "source_tokens": 3,
        "token_seconds": [0.1, 0.2],
        "logprobs": [
            {
                "token": "Ġan",
                "logprob": pytest.approx(-0.0513),
                "top": [
                    {"token_id": 4, "token": "Ġan", "logprob": pytest.approx(-0.0513)},
                    {"token_id": 9, "token": "\x1b", "logprob": -3.0},
                ],
            },
            {
                "token": "",
                "logprob": pytest.approx(-2.3026),
                "top": [{"token_id": 8, "token": "", "logprob": pytest.approx(-0.2)}],
            },
        ],
        "attention": {
            "layers": 1,
            "heads": 1,
            "source_tokens": ["x"],
            "tokens": ["a", "b"],
            "weights": [[[[1.0]]], [[[1.0]]]],
        },
        "model": "m",
        "version": 1,
        "variant": "fp32",
    }
    code, _, err = headwaiter("generate", "x", "--attention", "--target", server.target)
    assert (code, "goes with --json" in err) == (2, True)


def test_streamed_texts_are_printed_in_order(headwaiter: Run, server: ScriptedServer) -> None:
    """Pieces of several texts interleave on the wire, and stand below each other; timings tell of the first token."""
    code, out, err = headwaiter("generate", "abc", "x", "yz", "--stream", "--timings", "--target", server.target)
    assert (code, out) == (0, "ABC\nX\nYZ\n")
    assert err == (
        "3 texts in 500.00 ms: tokenize 0.00, queue 125.00, inference 0.00; first token after 125.00 ms;"
        " batch 41 of 2 rows, 9 tokens\n"
    )
    assert headwaiter("generate", "--stream", "--target", server.target, stdin=b"ab\n\nc\n")[1] == "AB\nC\n"


def test_streamed_probabilities_follow_their_text(headwaiter: Run, serve: Serve) -> None:
    """Each text is followed by the lines of its tokens before the next begins."""
    message, other = piece(0, "A", logprobs=1), finished(piece(1, "B", logprobs=0))
    server = serve(answer_streams={"GenerateStream": stream_of(message, other, finished(piece(0, "C", logprobs=0)))})
    out = headwaiter("generate", "x", "y", "--stream", "--logprobs", "1", "--target", server.target)[1]
    assert [line.split()[0] for line in out.splitlines()] == ["AC", "65", "67", "B", "66"]


def test_streamed_json_is_a_line_for_each_piece(headwaiter: Run, server: ScriptedServer) -> None:
    """Pieces as they come, each with its text's place among all; the last one of a text with the whole.

    With `--timings` a line for each call follows.
    """
    out = headwaiter("generate", "--stream", "--json", "--timings", "--target", server.target, stdin=b"ab\nc\n" * 20)[1]
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[0] == {"index": 0, "text": "A", "token_ids": [65], "token_seconds": [0.125]}
    assert {(each["index"] % 2, each["input"]) for each in lines if "finished" in each} == {(0, "ab"), (1, "c")}
    assert [each["timings"]["batch_id"] for each in lines if each.get("model") == "shout"] == [41, 41]
    assert [each["index"] for each in lines if "finished" in each and each["index"] >= 32] == [
        33,
        35,
        37,
        39,
        32,
        34,
        36,
        38,
    ]
    assert {each["finished"]["text"] for each in lines if "finished" in each} == {"AB", "C"}


def test_a_failure_leaves_no_line_open(headwaiter: Run, serve: Serve) -> None:
    """What had come is printed; a message stands on a line of its own, and names the text as a person would."""

    def answer(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield piece(0, "AB").SerializeToString()
        detail = bad_request("texts[1]", "is too long")
        # Not before the piece is read, which a status may overtake.
        printed.wait(60)
        refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "no", detail=detail)

    printed = threading.Event()
    server = serve(answer_streams={"GenerateStream": answer})
    with subprocess.Popen(
        [*HEADWAITER, "generate", "x", "y", "--stream", "--target", server.target],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert os.read(process.stdout.fileno(), 100) == b"AB"
        printed.set()
        assert process.stdout.read() == b"\n"
        assert process.stderr.read() == b"headwaiter: text 2: is too long\n"
        assert process.wait() == 1


def test_a_stream_that_falls_silent(headwaiter: Run, serve: Serve) -> None:
    """The deadline is the longest wait for the next piece, not for all of them."""
    endless = Endless()
    server = serve(answer_streams={"GenerateStream": endless})
    endless.say("A")
    code, out, err = headwaiter("generate", "x", "--stream", "--timeout", "3", "--target", server.target)
    assert (code, out) == (1, "A\n")
    assert err == "headwaiter: text 1: nothing more within 3 s\n"
    assert endless.gone.wait(20)


def test_the_text_that_falls_silent_is_named(headwaiter: Run, serve: Serve) -> None:
    """Texts that have ended are not what is waited for."""

    def answer(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        gone = threading.Event()
        context.add_callback(gone.set)
        yield finished(piece(0, "A")).SerializeToString()
        gone.wait(60)

    server = serve(answer_streams={"GenerateStream": answer})
    code, out, err = headwaiter("generate", "x", "y", "--stream", "--timeout", "3", "--target", server.target)
    assert (code, out, err) == (1, "A\n", "headwaiter: text 2: nothing more within 3 s\n")


def test_a_terminal_sees_pieces_as_they_come(serve: Serve) -> None:
    """On a terminal texts stream by themselves; Ctrl-C then ends the call on the server, quietly, with 130."""
    endless = Endless()
    server = serve(answer_streams={"GenerateStream": endless})
    ours, theirs = pty.openpty()
    command = [*HEADWAITER, "generate", "once", "--target", server.target]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        seen = b""
        for text in ("Up", "on", " a"):
            endless.say(text)
            while not seen.endswith(text.encode()):
                seen += os.read(ours, 100)
        assert seen == b"Upon a"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr is not None
        assert process.stderr.read().strip() == b""
    os.close(ours)
    assert endless.gone.wait(20)


def test_a_pipe_gets_whole_results(server: ScriptedServer) -> None:
    """Where nobody watches, a call for all texts is cheaper than a stream."""
    done = subprocess.run(
        [*HEADWAITER, "generate", "a", "--target", server.target], capture_output=True, text=True, check=True
    )
    assert done.stdout == "A\n"
    assert [call.method for call in server.calls] == ["Generate"]
    assert re.search(r"--stream / --no-stream", subprocess.check_output([*HEADWAITER, "generate", "-h"], text=True))


def test_scripts_of_these_tests_are_told_whole() -> None:
    """The first message says who answers, the last where the time went."""
    first, last = map(inference_pb2.GenerateStreamResponse.FromString, told([piece(0, "A"), finished(piece(0, "B"))]))
    assert (first.model, first.HasField("timings"), last.model, last.HasField("timings")) == ("shout", False, "", True)
