from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from headwaiter_proto.v1 import inference_pb2
from unit.client.scripted_server import NOT_SERVING, bad_request, refuse, upper_case

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from unit.client.scripted_server import ScriptedServer


Run = Any  # what the fixture above gives


def test_texts_from_arguments(headwaiter: Run, server: ScriptedServer) -> None:
    """One line for each argument, in one call."""
    code, out, err = headwaiter("generate", "one", "zwölf", "--target", server.target, "--model", "m")
    assert (code, out, err) == (0, "ONE\nZWÖLF\n", "")
    assert len(server.calls) == 1
    assert inference_pb2.GenerateRequest.FromString(server.calls[0].request).model == "m"


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_lines_from_standard_input(
    headwaiter: Run, serve: Callable[..., ScriptedServer], arguments: tuple[str, ...]
) -> None:
    """Hundreds of lines go out 32 at a time, a few calls at once, and come back in their order."""
    together = threading.Barrier(4)

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        # Passes only while four calls are open at the same time, and lets them end in any order.
        together.wait(timeout=10)
        return upper_case(request, context)

    server = serve({"Generate": answer})
    words = [f"word{number}" for number in range(32 * 7 + 20)]
    stdin = "".join(f"{word}\r\n\n" for word in words).encode()
    code, out, err = headwaiter("generate", *arguments, "--target", server.target, stdin=stdin)
    assert (code, err) == (0, "")
    assert out.splitlines() == [word.upper() for word in words]
    sizes = [len(inference_pb2.GenerateRequest.FromString(call.request).texts) for call in server.calls]
    assert sorted(sizes) == [20] + [32] * 7


def test_the_last_line_may_end_anyhow(headwaiter: Run, server: ScriptedServer) -> None:
    """A last line without a newline is a line."""
    assert headwaiter("generate", "--target", server.target, stdin=b"one\ntwo") == (0, "ONE\nTWO\n", "")


def test_no_lines_are_no_call(headwaiter: Run, server: ScriptedServer) -> None:
    """An empty input is answered by nothing."""
    assert headwaiter("generate", "--target", server.target, stdin=b"\n \n") == (0, "", "")
    assert server.calls == []


def test_json_lines(headwaiter: Run, server: ScriptedServer) -> None:
    """`--json` prints one object for each text, `--timings` adds where its call's time went."""
    code, out, err = headwaiter("generate", "ab", "c", "--json", "--timings", "--target", server.target)
    first, second = map(json.loads, out.splitlines())
    assert (code, err) == (0, "")
    assert first == {
        "input": "ab",
        "text": "AB",
        "token_ids": [65, 66],
        "finish_reason": "end_of_sequence",
        "source_tokens": 4,
        "model": "shout",
        "version": 3,
        "variant": "fp32",
        "timings": {
            "total_seconds": 0.5,
            "tokenize_seconds": 0.125,
            "queue_seconds": 0.0625,
            "inference_seconds": 0.25,
            "batch_size": 8,
            "batch_tokens": 90,
            "batch_id": 41,
        },
    }
    assert second["input"] == "c"


def test_timings_stay_out_of_the_results(headwaiter: Run, server: ScriptedServer) -> None:
    """Without `--json` timings go to the standard error, one line a call."""
    code, out, err = headwaiter("generate", "ab", "--timings", "--target", server.target)
    assert (code, out) == (0, "AB\n")
    assert err == (
        "1 text in 500.00 ms: tokenize 125.00, queue 62.50, inference 250.00; batch 41 of 8 rows, 90 tokens\n"
    )


def test_models(headwaiter: Run, server: ScriptedServer) -> None:
    """Models are listed for people and for programs."""
    code, out, _ = headwaiter("models", "--target", server.target)
    assert code == 0
    assert [line.split() for line in out.splitlines()][1] == [
        *("shout", "3", "generate", "fp32", "transformer", "64", "48")
    ]
    code, out, _ = headwaiter("models", "--json", "--target", server.target)
    assert json.loads(out) == {
        "name": "shout",
        "version": 3,
        "task": "generate",
        "architecture": "transformer",
        "variant": "fp32",
        "limits": {"max_source_tokens": 64, "max_new_tokens": 48, "max_total_tokens": 0},
        "graph_kind": "padded",
        "labels": [],
        "embedding": None,
    }


def test_health(headwaiter: Run, serve: Callable[..., ScriptedServer]) -> None:
    """The exit code is 0 only for a server, or a model, that serves."""
    up, down = serve(), serve({"Check": lambda request, context: NOT_SERVING})
    gone = serve({"Check": lambda request, context: refuse(context, grpc.StatusCode.NOT_FOUND)})
    assert headwaiter("health", "--target", up.target) == (0, "SERVING\n", "")
    assert headwaiter("health", "--target", down.target) == (1, "NOT_SERVING\n", "")
    assert headwaiter("health", "nope", "--json", "--target", gone.target) == (
        1,
        '{"model": "nope", "status": "SERVICE_UNKNOWN"}\n',
        "",
    )


@pytest.mark.parametrize("command", [("generate", "a"), ("generate",), ("models",), ("health",)])
def test_no_server_is_a_one_line_hint(
    headwaiter: Run, serve: Callable[..., ScriptedServer], command: tuple[str, ...]
) -> None:
    """Where nothing listens, one line says how to start a server."""
    server = serve()
    server.stop()
    code, out, err = headwaiter(*command, "--target", server.target, stdin=b"a\n")
    assert (code, out) == (1, "")
    assert err == (
        f"headwaiter: no server answers at {server.target}: start one with `headwaiter-server --models DIR`\n"
    )


def test_the_environment_names_the_target(
    headwaiter: Run, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HEADWAITER_CLIENT_TARGET is the target of commands that give none."""
    monkeypatch.setenv("HEADWAITER_CLIENT_TARGET", server.target)
    assert headwaiter("generate", "a") == (0, "A\n", "")


def test_a_refused_line_is_named(headwaiter: Run, serve: Callable[..., ScriptedServer]) -> None:
    """What came before the refused line is printed; then one line names it by its number in the input."""

    def answer(raw: bytes, context: grpc.ServicerContext) -> bytes:
        texts = list(inference_pb2.GenerateRequest.FromString(raw).texts)
        if "bad" in texts:
            detail = bad_request(f"texts[{texts.index('bad')}]", "holds what no model reads")
            return refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "refused", detail=detail)
        return upper_case(raw, context)

    target = serve({"Generate": answer}).target
    stdin = b"\n" + b"fine\n" * 40 + b"bad\n" + b"fine\n" * 200
    code, out, err = headwaiter("generate", "--target", target, stdin=stdin)
    assert (code, out.split()) == (1, ["FINE"] * 32)
    assert err == "headwaiter: line 42: holds what no model reads\n"
    code, out, err = headwaiter("generate", "fine", "bad", "--target", target)
    assert (code, out, err) == (1, "", "headwaiter: text 2: holds what no model reads\n")


def test_lines_are_utf_8(headwaiter: Run, server: ScriptedServer) -> None:
    """A line in another encoding is named instead of guessed at."""
    code, out, err = headwaiter("generate", "--target", server.target, stdin=b"ok\n\xff\n")
    assert (code, out, err) == (1, "", "headwaiter: line 2 is not UTF-8\n")


def test_messages_are_one_line(headwaiter: Run, serve: Callable[..., ScriptedServer]) -> None:
    """Whatever a server says takes one line."""
    server = serve({"ListModels": lambda request, context: refuse(context, grpc.StatusCode.INTERNAL, "two\nlines")})
    assert headwaiter("models", "--target", server.target) == (1, "", "headwaiter: two lines\n")


def test_mistakes_on_the_command_line(headwaiter: Run, tmp_path: Path) -> None:
    """Options that make no sense together are told apart from failed calls by exit code 2."""
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    code, _, err = headwaiter("models", "--target", "example.org:8001", "--token-file", str(token))
    assert code == 2
    assert "clear text" in err
    assert headwaiter("models", "--key-file", str(token))[0] == 2
    assert headwaiter("models", "--timeout", "0")[0] == 2
    assert headwaiter("models", "--ca-file", str(tmp_path / "nowhere"))[0] == 2


def test_a_token_in_clear_text_must_be_wanted(headwaiter: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option lets it pass: what fails then is the connection, to a port where nobody can listen."""
    monkeypatch.setenv("HEADWAITER_CLIENT_TOKEN", "s3cret")
    arguments = ("models", "--target", "0.0.0.0:0", "--timeout", "5")
    assert "clear text" in headwaiter(*arguments)[2]
    assert headwaiter(*arguments, "--allow-plaintext-token")[0] == 1


def test_the_environment_may_say_how_to_get_in(
    headwaiter: Run, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token, or its file, which wins; and the files for TLS, by the names of their options."""
    token = tmp_path / "token"
    token.write_text("filed\n")
    monkeypatch.setenv("HEADWAITER_CLIENT_TOKEN", "s3cret")
    assert headwaiter("models", "--target", server.target)[0] == 0
    monkeypatch.setenv("HEADWAITER_CLIENT_TOKEN_FILE", str(token))
    assert headwaiter("models", "--target", server.target)[0] == 0
    assert [call.metadata["authorization"] for call in server.calls] == ["Bearer s3cret", "Bearer filed"]
    for name in ("CA_FILE", "CERT_FILE", "KEY_FILE"):
        with monkeypatch.context() as patch:
            patch.setenv(f"HEADWAITER_CLIENT_{name}", str(tmp_path / "nowhere"))
            code, _, err = headwaiter("models")
        assert (code, "nowhere" in err) == (2, True)


def test_a_token_is_read_from_a_file(headwaiter: Run, server: ScriptedServer, tmp_path: Path) -> None:
    """The token's file may end with a newline."""
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    assert headwaiter("models", "--target", server.target, "--token-file", str(token))[0] == 0
    assert server.calls[0].metadata["authorization"] == "Bearer s3cret"
