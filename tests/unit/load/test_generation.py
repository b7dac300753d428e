"""Calls that generate: what tokens came when, counted and merged by the rules of other times, and shown everywhere."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from headwaiter_load import cli, results, typed, units
from headwaiter_load.compare import compare
from headwaiter_load.endpoint import Endpoint, open_channels
from headwaiter_load.errors import BadInputError
from headwaiter_load.generation_senders import _Pieces
from headwaiter_load.histograms import Histogram
from headwaiter_load.outcome import OK, Generated, Outcome
from headwaiter_load.page import write_html
from headwaiter_load.recorder import Recorder
from headwaiter_load.report import print_result
from headwaiter_load.requests import Exchange
from headwaiter_load.results import GenerationFigures, RunResult
from headwaiter_load.senders import Sender, make_sender
from headwaiter_proto.v1 import inference_pb2
from rich.console import Console
from unit.client.scripted_generation import Endless, finished, piece, stream_of, upper_case_stream
from unit.client.scripted_server import ScriptedServer, refuse
from unit.load.page_reader import Page
from unit.load.recorded_runs import SETTINGS, random_seconds, run_of
from unit.load.test_recorder import WINDOW, merged

PATH = "/headwaiter.v1.InferenceService/Generate"
Serve = Callable[..., ScriptedServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[ScriptedServer] = []

    def start(**scripts: Any) -> ScriptedServer:  # noqa: ANN401 - as of `ScriptedServer`
        servers.append(ScriptedServer(**scripts).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@asynccontextmanager
async def sending(server: ScriptedServer, exchange: Exchange) -> AsyncIterator[Sender]:
    """A sender to a server, closed in the end."""
    channels, metadata = open_channels(Endpoint(server.target, metadata=(("x-team", "red"),)))
    sender = make_sender(exchange, channels, PATH + ("Stream" if exchange == "generate-stream" else ""), metadata)
    yield sender
    await sender.close()
    for channel in channels:
        await channel.close()


def request(*texts: str) -> bytes:
    return inference_pb2.GenerateRequest(texts=texts).SerializeToString()


def test_requests_of_streams() -> None:
    """Of generation each message is a call that is answered in pieces, or whole; its tokens are counted either way."""
    pieces = typed.typed_requests("generate", typed.Asked("m", max_new_tokens=5), [("a",)], stream=True)
    assert (pieces.path, pieces.exchange) == (f"{PATH}Stream", "generate-stream")
    whole = typed.typed_requests("generate", typed.Asked("m", max_new_tokens=5), [("a",)], stream=False)
    assert (whole.path, whole.exchange) == (PATH, "generate")
    assert pieces.payloads == whole.payloads
    with pytest.raises(BadInputError, match="embed and generate only; tag has no stream"):
        typed.typed_requests("tag", typed.Asked(), [("a",)], stream=True)


async def test_tokens_of_whole_answers_are_counted(serve: Serve) -> None:
    """All tokens of all texts; nothing is known of when each came."""
    async with sending(serve(), "generate") as sender:
        outcome = await sender.send(request("abc", "de"), 20.0)
    assert (outcome.code, outcome.generated) == (OK, Generated(5))
    assert outcome.received_bytes > 5

    refusing = serve(scripts={"Generate": lambda raw, context: refuse(context, grpc.StatusCode.UNAVAILABLE, "full")})
    async with sending(refusing, "generate") as sender:
        assert await sender.send(request("a"), None) == Outcome("UNAVAILABLE", "full")


async def test_tokens_of_pieces_are_counted(serve: Serve) -> None:
    """A first time for each text, a gap for each piece of it that follows; metadata and deadline travel."""
    server = serve(answer_streams={"GenerateStream": upper_case_stream})
    async with sending(server, "generate-stream") as sender:
        outcome = await sender.send(request("abc", "de"), 20.0)
    generated = outcome.generated
    assert generated is not None
    assert (outcome.code, generated.tokens) == (OK, 5)
    assert (len(generated.first_times), len(generated.gaps_seconds)) == (2, 3)
    assert server.calls[0].metadata["x-team"] == "red"
    assert 0 < server.calls[0].time_remaining <= 20.5


def test_times_are_of_pieces_that_bring_tokens() -> None:
    """Text alone is no token; what comes together counts once; gaps are of the same text."""
    pieces = _Pieces(2)
    for now, message in (
        (1.0, piece(1, "a")),
        (2.0, piece(0, "b")),
        (4.0, piece(1, "cde")),
        (5.0, inference_pb2.GenerateStreamResponse(index=0, text="only text")),
        (7.0, finished(piece(0, "f"))),
        (8.0, finished(piece(1, ""))),
    ):
        pieces.take(message.SerializeToString(), now)
    outcome = pieces.outcome()
    assert outcome.generated == Generated(6, (1.0, 2.0), (3.0, 5.0))


async def test_streams_that_fail(serve: Serve) -> None:
    """A stream has the server's status, also after pieces, or fails by its deadline; or because a text has no end."""

    def leave(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield piece(0, "A").SerializeToString()
        refuse(context, grpc.StatusCode.UNAVAILABLE, "leaving")

    server = serve(answer_streams={"GenerateStream": leave})
    async with sending(server, "generate-stream") as sender:
        assert await sender.send(request("a"), 20.0) == Outcome("UNAVAILABLE", "leaving")
    endless = Endless()
    async with sending(serve(answer_streams={"GenerateStream": endless}), "generate-stream") as sender:
        assert (await sender.send(request("a"), 0.05)).code == "DEADLINE_EXCEEDED"
    for amid in ((finished(piece(0, "A")), piece(1, "B")), (finished(piece(0, "A")),), ()):
        async with sending(serve(answer_streams={"GenerateStream": stream_of(*amid)}), "generate-stream") as sender:
            outcome = await sender.send(request("a", "b"), 20.0)
        assert (outcome.code, outcome.message) == ("UNKNOWN", "the stream ended before its texts did")


async def test_a_call_that_is_given_up_ends_on_the_server(serve: Serve) -> None:
    """What the tester no longer waits for, at the end of a run, is cancelled."""
    endless = Endless()
    async with sending(serve(answer_streams={"GenerateStream": endless}), "generate-stream") as sender:
        call = asyncio.create_task(sender.send(request("a"), None))
        assert await asyncio.to_thread(endless.called.wait, 20)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert await asyncio.to_thread(endless.gone.wait, 20)


def good(tokens: int, *first_times: float, gaps: tuple[float, ...] = ()) -> Outcome:
    return Outcome(OK, received_bytes=8, generated=Generated(tokens, first_times, gaps))


def test_the_first_token_counts_from_when_its_call_was_due() -> None:
    """A call that was sent late has its lateness in the time to its first token, and none between tokens."""
    recorder = Recorder(WINDOW)
    recorder.ended(1001.0, 1001.5, 1003.0, 2, 1, good(9, 1002.0, 1002.5, gaps=(0.25, 0.5)))
    generation = merged(recorder).generation
    assert generation is not None
    assert generation.first_token is not None
    assert generation.first_token_service_time is not None
    assert generation.between_tokens is not None
    assert generation.first_token.max_seconds == pytest.approx(1.5, rel=1e-3)
    assert generation.first_token_service_time.max_seconds == pytest.approx(1.0, rel=1e-3)
    assert generation.first_token.count == 2
    assert generation.between_tokens.mean_seconds == pytest.approx(0.375, rel=1e-3)
    assert (generation.tokens, generation.tokens_per_second) == (9, 0.9)


def test_warm_up_and_failures_are_left_out() -> None:
    """Tokens of calls due before count in the rate where they come, in nothing else; those of failed calls nowhere."""
    recorder = Recorder(WINDOW)
    recorder.ended(999.0, 999.0, 1002.0, 1, 1, good(20, 1000.5, gaps=(0.25,)))
    recorder.ended(1009.0, 1009.0, 1011.0, 1, 1, good(4, 1010.0))
    recorder.ended(1003.0, 1003.0, 1004.0, 1, 1, Outcome("UNAVAILABLE", generated=Generated(7, (1003.5,))))
    generation = merged(recorder).generation
    assert generation is not None
    assert (generation.tokens, generation.tokens_per_second) == (4, 2.0)
    assert generation.first_token is not None
    assert generation.first_token.count == 1
    assert generation.between_tokens is None


def test_other_tasks_have_no_tokens() -> None:
    """Whole answers have tokens and no times of them; answers of other tasks have nothing."""
    whole, other = Recorder(WINDOW), Recorder(WINDOW)
    whole.ended(1001.0, 1001.0, 1002.0, 1, 1, good(3))
    other.ended(1001.0, 1001.0, 1002.0, 1, 1, Outcome(OK))
    assert merged(whole).generation == GenerationFigures(
        tokens=3, tokens_per_second=0.3, first_token=None, first_token_service_time=None, between_tokens=None
    )
    assert merged(other).generation is None


def test_merged_processes_are_as_one() -> None:
    """Whichever process a call fell to, also where one had none, tokens and their times are the same."""
    dice = random.Random(5)
    one, many = Recorder(WINDOW), [Recorder(WINDOW) for _ in range(3)]
    for _ in range(60):
        due = dice.uniform(998, 1012)
        first = due + dice.expovariate(2)
        outcome = good(dice.randint(1, 9), first, gaps=tuple(dice.expovariate(9) for _ in range(dice.randint(0, 9))))
        call = (due, due, first + dice.expovariate(1), 1, 7, outcome)
        one.ended(*call)
        dice.choice(many[:2]).ended(*call)
    assert merged(*many).generation == merged(one).generation


def test_memory_does_not_grow_with_tokens() -> None:
    """What travels to the parent is as large after a hundred thousand tokens as the histograms are wide."""
    dice, recorder = random.Random(1), Recorder(WINDOW)
    for number in range(1_000):
        due = 1000.0 + number % 10
        gaps = tuple(dice.expovariate(100) for _ in range(100))
        recorder.ended(due, due, due + 1, 1, 1, good(101, due + dice.expovariate(10), gaps=gaps))
    report = recorder.report(0, 10.0, 1.0).generation
    assert report is not None
    assert len(report.first_token) + len(report.between_tokens) < 40_000


def streamed_run(**changes: Any) -> RunResult:  # noqa: ANN401 - any field
    """A run whose answers came in pieces."""
    first, sent, between = Histogram(), Histogram(), Histogram()
    for number in range(1, 1001):
        first.record(number / 10_000)
        sent.record(number / 20_000)
        between.record(number / 100_000)
    generation = GenerationFigures(
        tokens=2000,
        tokens_per_second=100.0,
        first_token=first.distribution(),
        first_token_service_time=sent.distribution(),
        between_tokens=between.distribution(),
    )
    settings = replace(SETTINGS, task="generate", stream=True)
    return run_of(random_seconds(1), settings=settings, generation=replace(generation, **changes))


def printed(result: RunResult) -> str:
    console = Console(width=160, force_terminal=False)
    with console.capture() as captured:
        print_result(result, console)
    return captured.get()


def test_the_terminal_tells_of_tokens() -> None:
    """Rate, time to the first, time between, with what came together; nothing of it where there is none."""
    run = streamed_run()
    text = printed(run)
    assert run.generation is not None
    for times in (run.generation.first_token, run.generation.first_token_service_time, run.generation.between_tokens):
        assert times is not None
        assert units.seconds(times.p99_seconds) in text
    assert "Tokens generated" in text
    assert "numbers are of calls that were due in them, rates of answers that came in them" in " ".join(text.split())
    assert "a piece brought" not in text
    assert "a piece brought 1.50 in the mean" in printed(streamed_run(tokens=3000))
    closed = printed(replace(run, settings=replace(run.settings, load="closed", rate=None, outstanding=4)))
    assert "First, from when due" in closed
    assert "First, from when sent" not in closed
    whole = printed(streamed_run(first_token=None, first_token_service_time=None, between_tokens=None))
    assert ("Tokens generated" in whole, "First, from" in whole) == (True, False)
    assert "Tokens generated" not in printed(run_of(random_seconds(1)))


def test_the_page_tells_of_tokens(tmp_path: Path) -> None:
    """The same figures, tiles for the most important ones, and their curves."""
    run = streamed_run()
    write_html(run, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    generation = run.generation
    assert generation is not None
    assert generation.first_token is not None
    assert generation.between_tokens is not None
    assert page.tables["Tokens"][3][0] == "From one to the next"
    assert page.values["Tokens"][:2] == [generation.first_token.p50_seconds, generation.first_token.percentiles["90"]]
    assert "answered in pieces" in page.words
    assert "First token, p50" in page.words
    curves = {each["name"]: each["values"] for each in page.plots["token-percentiles"]["series"]}
    at_99 = page.plots["token-percentiles"]["x"].index(100.0)
    assert curves["to the first token"][at_99] == generation.first_token.p99_seconds
    assert curves["between tokens"][at_99] == generation.between_tokens.p99_seconds
    assert "plot-token-percentiles" in page.ids


def test_two_results_tell_of_tokens() -> None:
    """Of two runs that generate, what is known of both."""
    comparison = compare(streamed_run(), streamed_run(tokens_per_second=50.0))
    plain = {name: (first.value, second.value) for name, first, second in comparison.plain}
    assert plain["tokens"] == (100.0, 50.0)
    assert plain["first token, p99"][0] == pytest.approx(0.099, rel=1e-2)
    assert "between tokens, p50" in plain
    assert "tokens" not in {name for name, *_ in compare(streamed_run(), run_of(random_seconds(1))).plain}


def test_results_are_kept() -> None:
    """The file gives back what was written; files of before tokens were counted are read."""
    run = streamed_run()
    assert results.from_json(results.to_json(run)) == run
    old = json.loads(results.to_json(run_of(random_seconds(1))))
    del old["generation"]
    assert results.from_json(json.dumps(old)) == run_of(random_seconds(1))


def test_a_run_of_streams(serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line to the file, by two processes: pieces that come a while apart are told apart."""
    # So long that what the machine itself stands still is little beside it.
    step_seconds = 0.1
    slow = in_steps(step_seconds)
    server = serve(answer_streams={"GenerateStream": slow})
    output = tmp_path / "result.json"
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                *("run", "--target", server.target, "--task", "generate", "--stream", "--outstanding", "4", "--quiet"),
                *("--processes", "2", "--texts-per-call", "2", "--seconds", "1", "--warmup-seconds", "0.2"),
                *("--output", str(output), "--html", str(tmp_path / "page.html")),
            ]
        )
    assert ended.value.code == 0
    result = results.load(output)
    assert isinstance(result, RunResult)
    generation = result.generation
    assert generation is not None
    assert result.answered > 0
    assert (result.failed, generation.tokens) == (0, 6 * result.answered)
    assert generation.first_token is not None
    assert generation.between_tokens is not None
    assert generation.first_token.count == 2 * result.answered
    assert generation.between_tokens.count == 4 * result.answered
    assert generation.first_token.min_seconds >= step_seconds * 0.9
    assert generation.between_tokens.p50_seconds >= step_seconds * 0.5
    assert generation.first_token.p50_seconds < result.latency.p50_seconds
    assert generation.tokens_per_second > 0
    assert "From one to the next" in capsys.readouterr().out


def in_steps(step_seconds: float) -> Callable[[bytes, grpc.ServicerContext], Iterator[bytes]]:
    """Three steps of a model, each as long, after which each text has a token more."""

    def script(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        texts = len(inference_pb2.GenerateRequest.FromString(raw).texts)
        for step in range(3):
            time.sleep(step_seconds)
            for index in range(texts):
                message = piece(index, "a")
                yield (finished(message) if step == 2 else message).SerializeToString()

    return script
