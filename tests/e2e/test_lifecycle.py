"""Starting, refusing to start, and ending in order, of the real command."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import grpc
import pytest
from headwaiter import AsyncClient, CallCancelledError, Client, HealthStatus, OverloadedError, ServerUnreachableError
from headwaiter_proto.v1 import inference_pb2

from .process import COMMAND, FREE_PORTS, ServerProcess, environment, run_command, running_server

PICK_FIRST = Path(__file__).resolve().parents[2] / "clients" / "service-config-pick-first.json"
GENERATE = "/headwaiter.v1.InferenceService/Generate"
TWO_WORDS = inference_pb2.GenerateRequest(texts=["drain", "me"]).SerializeToString()


@pytest.mark.alone  # what it does must fit in the lame-duck time
def test_sigterm_under_load_fails_no_call(models_dir: Path) -> None:
    """After SIGTERM health turns to NOT_SERVING while calls are still answered; none fails, and the exit code is 0."""
    with running_server("--models", str(models_dir), "--lame-duck-seconds", "6") as server:
        asyncio.run(_load_until_turned_away(server.grpc, server.process))
        assert server.process.wait(30) == 0


async def _load_until_turned_away(target: str, process: subprocess.Popen[str]) -> None:
    # A plain channel: Headwaiter's own client watches health and would turn away by itself.
    async with grpc.aio.insecure_channel(target) as channel, AsyncClient(target) as health:
        generate: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(GENERATE)
        answered = 0
        turned_away = asyncio.Event()

        async def caller() -> None:
            nonlocal answered
            while not turned_away.is_set():
                await generate(TWO_WORDS, timeout=60)
                answered += 1

        async with asyncio.TaskGroup() as callers:
            for _ in range(8):
                callers.create_task(caller())
            await generate(TWO_WORDS, timeout=60)
            process.send_signal(signal.SIGTERM)
            while await health.health() is HealthStatus.SERVING:
                await asyncio.sleep(0.01)
            assert await health.health("pronounce") is HealthStatus.NOT_SERVING
            seen = answered
            while answered < seen + 8:
                await asyncio.sleep(0.01)
            turned_away.set()


def _call_for_ever(generate: grpc.UnaryUnaryMultiCallable[bytes, bytes]) -> None:
    while True:
        generate(TWO_WORDS, timeout=60)


def _ask_until_refused(client: Client, patience_seconds: float = 60.0) -> None:
    until = time.monotonic() + patience_seconds
    while time.monotonic() < until:
        client.models()


@pytest.mark.alone
def test_calls_after_the_lame_duck_time_are_sent_elsewhere(models_dir: Path, server: ServerProcess) -> None:
    """Once the lame-duck time is over, clients leave for their next address while calls that are held are finished.

    They need not look at health. A client without another address fails at once, as one that may try again.
    """
    many_words = inference_pb2.GenerateRequest(texts=["abcdefgh" * 5] * 150).SerializeToString()
    retries = [("grpc.service_config", PICK_FIRST.read_text())]
    with (
        # However busy the machine is, what is held is finished in that time.
        running_server("--models", str(models_dir), "--lame-duck-seconds", "0.2", "--drain-seconds", "60") as ending,
        grpc.insecure_channel(ending.grpc) as channel,
        grpc.insecure_channel(f"ipv4:{ending.grpc},{server.grpc}", retries) as either,
    ):
        generate: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(GENERATE)
        generate_there: grpc.UnaryUnaryMultiCallable[bytes, bytes] = either.unary_unary(GENERATE)
        held = [generate.future(many_words, timeout=60) for _ in range(6)]
        # Answered behind the held ones' arrival, so they are all admitted; and its connection is to the one that ends.
        generate_there(TWO_WORDS, timeout=60)
        generate(TWO_WORDS, timeout=60)
        ending.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as refused:
            _call_for_ever(generate)
        # The very call that comes as the listeners close may be cancelled.
        assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        while True:
            generate_there(TWO_WORDS, timeout=60)
            if all(call.done() for call in held):
                break
        for call in held:
            assert len(inference_pb2.GenerateResponse.FromString(call.result()).generations) == 150
        assert ending.process.wait(30) == 0


def test_second_signal_ends_at_once(models_dir: Path) -> None:
    """A second signal does not wait for the lame-duck time."""
    with running_server("--models", str(models_dir), "--lame-duck-seconds", "600") as server:
        server.process.send_signal(signal.SIGTERM)
        with Client(server.grpc) as client:
            while client.health() is HealthStatus.SERVING:
                pass
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 130


def test_metrics_go_last(models_dir: Path) -> None:
    """While calls drain, metrics can still be scraped."""
    held = 'headwaiter_requests_in_flight{method="headwaiter.v1.InferenceService/Generate"}'
    # One text at a time: the call lasts until it is given up.
    flags = ("--lame-duck-seconds", "0", "--drain-seconds", "200", "--workers", "1", "--batching", "none")
    with (
        running_server("--models", str(models_dir), *flags) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        generate: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(GENERATE)
        call = generate.future(inference_pb2.GenerateRequest(texts=["abcdefgh" * 5] * 1000).SerializeToString())
        while not server.scrape().get(held):
            assert not call.done()
        server.process.send_signal(signal.SIGTERM)
        # The very call that comes as the listeners close may be cancelled.
        refused = (ServerUnreachableError, OverloadedError, CallCancelledError)
        with Client(server.grpc, retries=False, timeout_seconds=60) as client, pytest.raises(refused):
            _ask_until_refused(client)
        assert server.scrape()[held] == 1
        call.cancel()
        assert server.process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--models", "/nowhere"], 1, "/nowhere is not a folder"),
        ([], 2, "--models is required"),
        (["--models", ".", "--bogus", "1"], 2, "--bogus"),
        (["--models", ".", "--workers", "-1"], 2, "--workers"),
        (["--models", ".", "--listen", "nonsense"], 2, "expected HOST:PORT"),
    ],
)
def test_wrong_settings_end_with_a_line_that_says_which(arguments: list[str], code: int, words: str) -> None:
    """A setting that cannot be met ends the command with its exit code and names the setting; never a traceback."""
    ended = run_command(*arguments)
    assert ended.returncode == code
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_taken_port_is_named(models_dir: Path) -> None:
    """Two servers never share a port silently: the second one says which is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flag, other in (("--listen", "--metrics-listen"), ("--metrics-listen", "--listen")):
            ended = run_command("--models", str(models_dir), flag, address, other, "127.0.0.1:0")
            assert ended.returncode == 1
            assert f"cannot listen on {address}" in ended.stderr


def test_altered_bundle_ends_the_server_unless_partial_is_allowed(models_dir: Path, tmp_path: Path) -> None:
    """An altered model keeps the server from starting, by name; with --allow-partial the others serve."""
    shutil.copytree(models_dir / "pronounce", tmp_path / "good")
    shutil.copytree(models_dir / "pronounce", tmp_path / "spoiled")
    graph = tmp_path / "spoiled" / "1" / "encoder.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    ended = run_command("--models", str(tmp_path), *FREE_PORTS)
    assert ended.returncode == 1
    assert "model 'spoiled' failed to load" in ended.stderr
    assert "altered" in ended.stderr
    with running_server("--models", str(tmp_path), "--allow-partial", "--lame-duck-seconds", "0") as server:
        assert server.models == "good:1"
        with Client(server.grpc) as client:
            assert client.generate("word", model="good").generations[0].text


def test_unknown_manifest_field_is_refused(models_dir: Path, tmp_path: Path) -> None:
    """A bundle with a field of some later format is not half understood but refused."""
    shutil.copytree(models_dir / "pronounce", tmp_path / "future")
    manifest = tmp_path / "future" / "1" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"surprise": 1}))
    ended = run_command("--models", str(tmp_path), *FREE_PORTS)
    assert ended.returncode == 1
    assert "surprise" in ended.stderr


def test_several_listeners_and_a_socket_file(models_dir: Path, tmp_path: Path) -> None:
    """TCP and Unix-socket listeners serve side by side."""
    path = f"unix:{tmp_path / 'headwaiter.sock'}"
    arguments = ["--models", str(models_dir), "--listen", path, "--lame-duck-seconds", "0"]
    with running_server(*arguments) as server:
        tcp, unix = server.grpc.split(",")
        assert unix == path
        for target in (tcp, unix):
            with Client(target) as client:
                assert client.generate("word").generations[0].text


def test_reflection_describes_the_service(models_dir: Path) -> None:
    """Tools that know nothing of Headwaiter find its service by reflection."""
    code = (
        "import sys, grpc\n"
        "from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase\n"
        "from google.protobuf.descriptor_pool import DescriptorPool\n"
        "database = ProtoReflectionDescriptorDatabase(grpc.insecure_channel(sys.argv[1]))\n"
        "print(*database.get_services())\n"
        "service = DescriptorPool(database).FindServiceByName('headwaiter.v1.InferenceService')\n"
        "print(service.methods_by_name['Generate'].input_type.full_name)\n"
    )
    with running_server("--models", str(models_dir), "--lame-duck-seconds", "0") as server:
        ended = subprocess.run(
            [COMMAND[0], "-c", code, server.grpc],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert "headwaiter.v1.InferenceService" in ended.stdout
    assert "grpc.health.v1.Health" in ended.stdout
    assert "headwaiter.v1.GenerateRequest" in ended.stdout


def test_cancelled_and_expired_calls_leave_nothing_behind(models_dir: Path) -> None:
    """After hundreds of calls cancelled or expired at random moments, nothing is in flight and good calls are exact."""
    with running_server("--models", str(models_dir), "--lame-duck-seconds", "0") as server:
        asyncio.run(_cancel_at_random(server.grpc))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            values = server.scrape()
            left = [
                values['headwaiter_requests_in_flight{method="headwaiter.v1.InferenceService/Generate"}'],
                values['headwaiter_queue_depth{model="pronounce"}'],
                values['headwaiter_running_texts{model="pronounce"}'],
            ]
            if not any(left):
                break
        assert left == [0, 0, 0]
        codes = {
            name.split('code="')[1].split('"')[0] for name in values if name.startswith("headwaiter_requests_total")
        }
        assert codes <= {"OK", "CANCELLED", "DEADLINE_EXCEEDED"}
        assert server.terminate() == 0


async def _cancel_at_random(target: str) -> None:
    async with AsyncClient(target, retries=False, timeout_seconds=60) as client:
        expected = (await client.generate("survivor")).generations[0].text

        async def one(index: int) -> None:
            if index % 3 == 0:
                assert (await client.generate("survivor")).generations[0].text == expected
                return
            timeout = 0.0005 * (index % 40 + 1) if index % 3 == 1 else 10.0
            task = asyncio.create_task(client.generate(["cancelled", "at", "random"], timeout_seconds=timeout))
            if index % 3 == 2:
                await asyncio.sleep(0.0005 * (index % 50))
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        await asyncio.gather(*(one(index) for index in range(600)))


def test_print_config_shows_what_is_in_force(tmp_path: Path) -> None:
    """--print-config prints settings that --config reads back to the same."""
    printed = run_command("--models", "m", "--workers", "3", "--variant", "a=int8", "--print-config")
    assert printed.returncode == 0
    file = tmp_path / "settings.toml"
    file.write_text(printed.stdout)
    again = run_command("--config", str(file), "--print-config")
    assert again.stdout == printed.stdout


def test_idle_connection_does_not_delay_the_end(models_dir: Path) -> None:
    """A client that stays connected without calling does not keep the server from ending."""
    with (
        running_server("--models", str(models_dir), "--lame-duck-seconds", "0") as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        grpc.channel_ready_future(channel).result(timeout=60)
        assert server.terminate() == 0
