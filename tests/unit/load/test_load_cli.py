"""The command refuses what makes no sense, by name and before anything is sent, and measures what it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from headwaiter import cli as client_cli
from headwaiter_load import cli, results
from headwaiter_load.results import CapacityResult, RunResult
from headwaiter_proto.inference import grpc_service_pb2 as inference
from unit.client.scripted_server import ScriptedServer
from unit.load import targets

Command = Callable[..., tuple[int, str, str]]
CONNECTION = {
    *("target", "tls", "ca_file", "cert_file", "key_file", "server_name", "token_file", "allow_plaintext_token"),
}
OPEN = ("run", "--task", "embed", "--rate", "5")


@pytest.fixture
def load(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command in this process: its exit code, what it printed, what it complained about."""
    monkeypatch.delenv("HEADWAITER_CLIENT_TARGET", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def oip_server() -> Iterator[ScriptedServer]:
    """A server of the Open Inference Protocol with one model, "pair"."""
    server = ScriptedServer(
        {"ModelMetadata": targets.model_metadata, "ModelInfer": targets.model_infer},
        streams={"ModelStreamInfer": targets.model_stream_infer},
    ).start()
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run",), "say how calls shall come: one of --outstanding, --rate or --replay"),
        (("run", "--rate", "5", "--outstanding", "3"), "one of --outstanding, --rate or --replay"),
        (("run", "--outstanding", "3", "--arrivals", "poisson"), "--arrivals goes with --rate only"),
        (("run", "--outstanding", "3", "--burst-size", "3"), "--burst-size goes with --rate only"),
        (("run", "--rate", "5", "--speed", "2"), "--speed goes with --replay only"),
        (("run", "--rate", "5", "--burst-size", "3"), "--arrivals bursty and --burst-size belong together"),
        (("run", "--rate", "5", "--arrivals", "bursty"), "--arrivals bursty and --burst-size belong together"),
        (("run", "--outstanding", "3", "--processes", "4"), "--outstanding 3 is not enough for --processes 4"),
        ((*OPEN, "--words", "some"), "'some' is none of fixed:N"),
        ((*OPEN, "--texts", "TEXTS", "--words", "fixed:3"), "give one of the two"),
        ((*OPEN, "--input", "TEXTS"), "--input goes with --protocol oip only"),
        ((*OPEN, "--integers", "1:2"), "--integers goes with --protocol oip only"),
        ((*OPEN, "--version", "new"), "--version 'new' is no whole number"),
        ((*OPEN, "--metadata", "Key=1"), "--metadata 'Key=1' is no KEY=VALUE"),
        ((*OPEN, "--metadata", "plain"), "--metadata 'plain' is no KEY=VALUE"),
        ((*OPEN, "--key-file", "TEXTS"), "cert_file and key_file belong together"),
        ((*OPEN, "--target", "example.com:1", "--token-file", "TOKEN"), "in clear text"),
        (("run", "--rate", "5", "--task", "rerank"), "the task rerank needs --query"),
        ((*OPEN, "--query", "q"), "--query goes with the task rerank only"),
        ((*OPEN, "--max-new-tokens", "3"), "--max-new-tokens goes with the task generate only"),
        (("run", "--rate", "5", "--task", "tokenize", "--truncate"), "--truncate does not go with the task tokenize"),
        (("run", "--rate", "5", "--task", "tag", "--stream"), "tag has no stream"),
        (("run", "--rate", "5", "--protocol", "oip"), "--protocol oip needs --model"),
        (("run", "--rate", "5", "--protocol", "oip", "--model", "m", "--task", "tag"), "--task goes with --protocol"),
        (
            ("run", "--rate", "5", "--protocol", "oip", "--model", "m", "--input", "TEXTS", "--words", "fixed:1"),
            "--words",
        ),
        (("run", "--replay", "TRACE", "--seconds", "5"), "--seconds cannot be given with --replay"),
        (("run", "--replay", "TRACE", "--texts", "TEXTS"), "--texts cannot be given with --replay"),
        (("run", "--replay", "TRACE", "--texts-per-call", "2"), "--texts-per-call and --input cannot be given"),
        (("run", "--replay", "TRACE", "--warmup-seconds", "9"), "within the warm-up of 9 s"),
        (("run", "--replay", "TEXTS"), "line 1"),
        (("capacity", "--p99-seconds", "0.1", "--start-rate", "9", "--max-rate", "5"), "--start-rate 9 is above"),
        (("run", "--rate", "0"), "0"),
        (("run", "--rate", "5", "--speeed", "3"), "--speeed"),
        (("walk",), "walk"),
    ],
)
def test_what_makes_no_sense_is_refused(load: Command, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2, one clear message, and nothing sent."""
    (tmp_path / "TEXTS").write_text("some text\n")
    (tmp_path / "TRACE").write_text('{"offset_seconds": 1, "texts": ["a"]}\n')
    (tmp_path / "TOKEN").write_text("secret\n")
    paths = [str(tmp_path / each) if each in {"TEXTS", "TRACE", "TOKEN"} else each for each in arguments]
    code, out, err = load(*paths)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())


@pytest.mark.parametrize("command", ["run", "capacity"])
def test_the_options_of_the_connection_are_the_clients(command: str) -> None:
    """By name, kind and words."""
    own, clients = (
        {option.name: option.to_info_dict() for option in commands[name].params if option.name in CONNECTION}
        for commands, name in ((cli.cli.commands, command), (client_cli.cli.commands, "models"))
    )
    assert own == clients
    assert own.keys() == CONNECTION


def test_a_run_is_shown_and_saved(load: Command, tmp_path: Path) -> None:
    """Figures on the terminal, a JSON file and a page; progress on the standard error only."""
    server = ScriptedServer({"Tag": lambda request, context: b""}).start()
    (tmp_path / "texts.txt").write_text("one\ntwo\nthree\n")
    files = {"--output": tmp_path / "a.json", "--html": tmp_path / "a.html", "--texts": tmp_path / "texts.txt"}
    try:
        code, out, _ = load(
            *("run", "--target", server.target, "--task", "tag", "--rate", "40", "--arrivals", "bursty"),
            *("--burst-size", "4", "--seconds", "1", "--warmup-seconds", "0.2", "--texts-per-call", "2"),
            *(part for name, path in files.items() for part in (name, str(path))),
        )
    finally:
        server.stop()
    assert code == 0
    result = results.load(files["--output"])
    assert isinstance(result, RunResult)
    assert result.answered > 0
    assert result.texts == 2 * result.answered
    assert (result.settings.load, result.settings.burst_size, result.settings.workload) == (
        "bursty",
        4,
        "texts of texts.txt",
    )
    assert "p99" in out
    assert "<html" in files["--html"].read_text()


def test_a_trace_is_replayed(load: Command, tmp_path: Path) -> None:
    """Twice as fast, every call with its own texts and deadline."""
    server = ScriptedServer({"Generate": lambda request, context: b""}).start()
    trace = tmp_path / "trace.jsonl"
    lines = [{"offset_seconds": n / 10, "lengths": [n + 1] * 2, "deadline_seconds": 70} for n in range(10)]
    trace.write_text("\n".join(map(json.dumps, lines)))
    output = tmp_path / "result.json"
    try:
        code, _, _ = load(
            *("run", "--target", server.target, "--task", "generate", "--replay", str(trace), "--speed", "2"),
            *("--output", str(output), "--quiet"),
        )
    finally:
        server.stop()
    result = results.load(output)
    assert isinstance(result, RunResult)
    assert (code, result.answered, result.texts) == (0, 10, 20)
    assert (result.settings.rate, result.settings.workload) == (None, "trace trace.jsonl")
    from headwaiter_proto.v1 import inference_pb2  # noqa: PLC0415 - for this test alone

    sent = [inference_pb2.GenerateRequest.FromString(call.request) for call in server.calls]
    assert sorted(len(each.texts[1].split()) for each in sent) == list(range(1, 11))
    # gRPC rounds what travels up.
    assert all(50 < call.time_remaining <= 71 for call in server.calls)


@pytest.mark.parametrize("stream", [False, True])
def test_an_open_inference_server_is_measured(
    load: Command, oip_server: ScriptedServer, tmp_path: Path, *, stream: bool
) -> None:
    """The server is asked what its model takes, and gets that; on a stream, errors in answers count as failures."""
    output = tmp_path / "result.json"
    code, _, err = load(
        *("run", "--target", oip_server.target, "--protocol", "oip", "--model", "pair", "--version", "1"),
        *("--outstanding", "4", "--seconds", "0.5", "--warmup-seconds", "0", "--texts-per-call", "3"),
        *("--output", str(output), "--quiet", *(["--stream"] if stream else [])),
    )
    assert code == 0, err
    result = results.load(output)
    assert isinstance(result, RunResult)
    assert result.answered > 0
    assert result.texts == 3 * result.answered
    if stream:
        assert [(each.code, each.example) for each in result.errors] == [("UNKNOWN", "no luck")]
        assert result.failed == pytest.approx(result.scheduled / 5, abs=1)
    else:
        assert result.errors == ()
        sent = [call for call in oip_server.calls if call.method == "ModelInfer"]
        request = inference.ModelInferRequest.FromString(sent[0].request)
        assert [(each.name, list(each.shape)) for each in request.inputs] == [("text", [3, 1]), ("scale", [3, 2])]


def test_tensors_of_a_file_are_sent(load: Command, oip_server: ScriptedServer, tmp_path: Path) -> None:
    """The very values, in turn."""
    given = [{"text": ["a"], "scale": [1.0, 2.0]}, {"text": ["b", "c"], "scale": [1.0, 2.0, 3.0, 4.0]}]
    (tmp_path / "input.json").write_text(json.dumps({"data": given}))
    code, _, err = load(
        *("run", "--target", oip_server.target, "--protocol", "oip", "--model", "pair", "--rate", "20", "--quiet"),
        *("--seconds", "0.5", "--warmup-seconds", "0", "--input", str(tmp_path / "input.json")),
    )
    assert code == 0, err
    sent = [
        inference.ModelInferRequest.FromString(call.request) for call in oip_server.calls if call.method == "ModelInfer"
    ]
    assert {request.inputs[0].shape[0] for request in sent} == {1, 2}
    assert {bytes(request.raw_input_contents[0]) for request in sent} == {
        b"\x01\0\0\0a",
        b"\x01\0\0\0b\x01\0\0\0c",
    }


def test_an_unknown_model_is_told(load: Command, oip_server: ScriptedServer) -> None:
    """What the server says of it, in one line, with exit code 1."""
    code, _, err = load("run", "--target", oip_server.target, "--protocol", "oip", "--model", "other", "--rate", "5")
    assert code == 1
    assert "NOT_FOUND: no such model" in err
    assert err.count("\n") == 1


@pytest.mark.alone
def test_a_search_is_shown_and_saved(load: Command, tmp_path: Path) -> None:
    """Each step is a line while it goes on; all of them are in the file."""
    server = ScriptedServer({"Embed": lambda request, context: b""}).start()
    output = tmp_path / "capacity.json"
    try:
        code, out, err = load(
            *("capacity", "--target", server.target, "--task", "embed", "--p99-seconds", "2", "--start-rate", "75"),
            *("--max-rate", "100", "--seconds", "0.5", "--settle-seconds", "0", "--warmup-seconds", "0.2"),
            *("--output", str(output)),
        )
    finally:
        server.stop()
    assert code == 0, err
    result = results.load(output)
    assert isinstance(result, CapacityResult)
    assert [step.rate for step in result.steps] == [75.0, 100.0]
    assert (result.capacity_per_second, result.limited_by) == (100.0, "max-rate")
    assert err.count("meets") == 2
    assert "100" in out
