"""Tensors in shared memory over a real socket, and a server that survives whatever is done to the memory meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from headwaiter_proto.inference import grpc_service_pb2
from unit.server.tensor_graphs import identity

from .process import ServerProcess, running_server

Code = grpc.StatusCode
Rows = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
COLUMNS = 4
ROW_BYTES = 4 * COLUMNS


@pytest.fixture(scope="module")
def echo_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository whose one model gives back what it gets."""
    folder = tmp_path_factory.mktemp("echo")
    version = folder / "echo" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(identity(axes=("batch", "columns")).SerializeToString())
    return folder


@pytest.fixture(scope="module")
def echo_server(echo_models: Path) -> Iterator[ServerProcess]:
    """A server with it."""
    options = ("--calibration", "off", "--trial-loads", "off", "--lame-duck-seconds", "0")
    with running_server("--models", str(echo_models), *options, "--nonfinite-inputs", "refuse") as process:
        yield process


class Client:
    """A caller whose tensors lie in shared memory."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def call(self, method: str, request: Message) -> bytes:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        call = self._channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        return call(request.SerializeToString(), timeout=20)

    def register(self, name: str, key: str, size: int, offset: int = 0) -> None:
        request = grpc_service_pb2.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=size, offset=offset)
        self.call("SystemSharedMemoryRegister", request)

    def unregister(self, name: str = "") -> None:
        self.call("SystemSharedMemoryUnregister", grpc_service_pb2.SystemSharedMemoryUnregisterRequest(name=name))

    def echo(
        self, region: str, rows: int, *, source: int = 0, target: int = 0, columns: int = COLUMNS
    ) -> grpc_service_pb2.ModelInferResponse:
        """Have rows at one offset of a region written to another."""
        request = grpc_service_pb2.ModelInferRequest(model_name="echo")
        tensor = request.inputs.add(name="x", datatype="FP32", shape=[rows, columns])
        for each, offset in ((tensor, source), (request.outputs.add(name="y"), target)):
            each.parameters["shared_memory_region"].string_param = region
            each.parameters["shared_memory_byte_size"].int64_param = 4 * rows * columns
            each.parameters["shared_memory_offset"].int64_param = offset
        return grpc_service_pb2.ModelInferResponse.FromString(self.call("ModelInfer", request))


@pytest.fixture
def client(echo_server: ServerProcess) -> Iterator[Client]:
    """A caller that leaves no region behind."""
    with grpc.insecure_channel(echo_server.grpc) as channel:
        caller = Client(channel)
        yield caller
        caller.unregister()


@contextmanager
def shared(content: bytes) -> Iterator[Path]:
    """An object of shared memory with this content; its name is its key."""
    path = Path("/dev/shm") / f"headwaiter-test-{os.getpid()}-{threading.get_ident()}"  # noqa: S108 - that is where it is
    path.write_bytes(content)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def rows_of(number: int, columns: int = COLUMNS) -> Rows:
    return np.arange(number * columns, dtype=np.float32).reshape(number, columns)


@pytest.mark.parametrize("columns", [COLUMNS, 1 << 19], ids=["small", "4 MB"])
def test_tensors_pass_through_shared_memory(client: Client, columns: int) -> None:
    """An input is read there, an output written there, and the answer says where; nothing of them travels."""
    rows = rows_of(2, columns)
    size = rows.nbytes
    with shared(rows.tobytes() + bytes(size)) as memory:
        client.register("r", "/" + memory.name, 2 * size)
        answer = client.echo("r", 2, target=size, columns=columns)
        assert np.array_equal(np.frombuffer(memory.read_bytes()[size:], np.float32), rows.ravel())
    assert list(answer.raw_output_contents) == [b""]
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [2, columns])
    assert output.parameters["shared_memory_region"].string_param == "r"
    assert output.parameters["shared_memory_byte_size"].int64_param == size
    assert output.parameters["shared_memory_offset"].int64_param == size


def test_memory_outlives_its_name(client: Client) -> None:
    """What was registered is used although its owner has removed the name, as POSIX has it."""
    with shared(rows_of(2).tobytes()) as memory:
        client.register("r", memory.name, 2 * ROW_BYTES)
        memory.unlink()
        client.echo("r", 2)


def refusal(error: grpc.RpcError) -> tuple[Code, str]:
    call = cast("grpc.Call", error)
    return call.code(), call.details() or ""


@pytest.mark.parametrize("size", [0, ROW_BYTES, 2 * ROW_BYTES - 1])
def test_memory_cut_short_fails_the_call_that_uses_it(client: Client, echo_server: ServerProcess, size: int) -> None:
    """A client that cuts registered memory short is told so; the server, which would die of a mapping, goes on."""
    with shared(rows_of(2).tobytes()) as memory:
        client.register("r", memory.name, 2 * ROW_BYTES)
        client.echo("r", 2)
        os.truncate(memory, size)
        with pytest.raises(grpc.RpcError) as refused:
            client.echo("r", 2)
        code, details = refusal(refused.value)
        assert code is Code.INVALID_ARGUMENT
        assert details.startswith("inputs[x]: lies behind the end of the shared memory of region 'r'")
        assert memory.stat().st_size == size
        os.truncate(memory, 2 * ROW_BYTES)
        client.echo("r", 2)
    assert echo_server.process.poll() is None


def test_wrong_sizes_and_places_are_refused(client: Client) -> None:
    """What does not lie within its region is INVALID_ARGUMENT; a region that is not there NOT_FOUND."""
    with shared(rows_of(4).tobytes()) as memory:
        client.register("r", memory.name, 2 * ROW_BYTES)
        for rows, offset, code in (
            (3, 0, Code.INVALID_ARGUMENT),
            (2, 1, Code.INVALID_ARGUMENT),
            (1, 1 << 62, Code.INVALID_ARGUMENT),
            (1, -1, Code.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                client.echo("r", rows, source=offset)
            assert refusal(refused.value)[0] is code
        with pytest.raises(grpc.RpcError) as refused:
            client.echo("unknown", 1)
        assert refusal(refused.value)[0] is Code.NOT_FOUND
        with pytest.raises(grpc.RpcError) as refused:
            client.register("r", memory.name, ROW_BYTES)
        assert refusal(refused.value)[0] is Code.ALREADY_EXISTS
        for key in ("../etc/passwd", "/etc/passwd", "no-such-memory"):
            with pytest.raises(grpc.RpcError) as refused:
                client.register("other", key, 1)
            assert refusal(refused.value)[0] is Code.INVALID_ARGUMENT


def test_what_is_no_number_is_refused_there_too(client: Client) -> None:
    """By the tensor's name, and nothing is written."""
    rows = rows_of(2)
    rows[1, 3] = np.inf
    with shared(rows.tobytes() + bytes(rows.nbytes)) as memory:
        client.register("r", "/" + memory.name, 2 * rows.nbytes)
        with pytest.raises(grpc.RpcError) as refused:
            client.echo("r", 2, target=rows.nbytes)
        assert refusal(refused.value)[0] is Code.INVALID_ARGUMENT
        assert refusal(refused.value)[1].startswith("inputs[x].contents: holds a NaN or an infinity at [1, 3]")
        assert memory.read_bytes()[rows.nbytes :] == bytes(rows.nbytes)


def test_server_survives_memory_that_comes_and_goes(client: Client, echo_server: ServerProcess) -> None:
    """While others register, unregister, cut and fill the memory, every call is answered: rightly, or with a reason."""
    columns, ended, stopped = 1 << 15, threading.Event(), threading.Event()
    content = rows_of(2, columns)
    size = content.nbytes

    def meddle(memory: Path) -> None:
        try:
            with grpc.insecure_channel(echo_server.grpc) as channel:
                other = Client(channel)
                for turn in range(60):
                    other.unregister("r")
                    if turn % 3:
                        os.truncate(memory, size // 2)
                        memory.write_bytes(content.tobytes() + bytes(size))
                    other.register("r", memory.name, 2 * size)
                    if turn % 10 == 0:
                        # Now and then it is left alone for as long as a whole call takes: the one that is under way
                        # may have found it gone.
                        enough = len(answered) + 2
                        while len(answered) < enough and not stopped.is_set():
                            time.sleep(0.001)
        finally:
            ended.set()

    answered: list[Code] = []
    with shared(content.tobytes() + bytes(size)) as memory:
        client.register("r", memory.name, 2 * size)
        meddler = threading.Thread(target=meddle, args=(memory,), daemon=True)
        meddler.start()
        try:
            while not ended.is_set():
                try:
                    client.echo("r", 2, target=size, columns=columns)
                    answered.append(Code.OK)
                except grpc.RpcError as error:
                    answered.append(refusal(error)[0])
        finally:
            stopped.set()
            meddler.join()
        client.echo("r", 2, target=size, columns=columns)
        assert np.array_equal(np.frombuffer(memory.read_bytes()[size:], np.float32), content.ravel())
    assert answered.count(Code.OK) >= 6
    assert set(answered) <= {Code.OK, Code.NOT_FOUND, Code.INVALID_ARGUMENT}
    assert echo_server.process.poll() is None


def test_thousand_registrations_leave_nothing_behind(client: Client, echo_server: ServerProcess) -> None:
    """Regions that come and go keep no file open."""
    files = Path(f"/proc/{echo_server.process.pid}/fd")
    with shared(bytes(64)) as memory:
        before = len(list(files.iterdir()))
        for number in range(1000):
            client.register(f"r{number}", memory.name, 64)
            if number % 100 == 99:
                client.unregister()
        assert len(list(files.iterdir())) <= before + 1


def test_switched_off(echo_models: Path) -> None:
    """With --shared-memory off registering says so, and the server does not claim that it can."""
    with (
        running_server("--models", str(echo_models), "--calibration", "off", "--shared-memory", "off") as process,
        grpc.insecure_channel(process.grpc) as channel,
    ):
        caller = Client(channel)
        with pytest.raises(grpc.RpcError) as refused:
            caller.register("r", "key", 1)
        code, details = refusal(refused.value)
        assert (code, "--shared-memory" in details) == (Code.UNIMPLEMENTED, True)
        answer = caller.call("ServerMetadata", grpc_service_pb2.ServerMetadataRequest())
        assert "system_shared_memory" not in grpc_service_pb2.ServerMetadataResponse.FromString(answer).extensions
