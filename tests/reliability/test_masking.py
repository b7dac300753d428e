"""No exception's text, path or stack reaches a client, whatever breaks; and nothing of a call's content the log."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import grpc
import numpy as np
import pytest
from e2e.process import ServerProcess, running_server
from google.rpc import error_details_pb2, status_pb2
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import inference_pb2
from headwaiter_server.metrics import CallFacts, Metrics
from headwaiter_server.metrics.endpoint import serve
from headwaiter_server.metrics.messages import Request, Response
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.edge import Edge
from headwaiter_server.rpc.server import GrpcServer
from headwaiter_server.scheduling.admission import Admission, Permit
from onnx import TensorProto, helper
from unit.server.hostile_graphs import crashing
from unit.server.tensor_graphs import bare, model_of, picked
from unit.server.test_load_encoder import Made

from .told import PLANTED, Told, ask, call_all, revealed

OPEN = "/inference.GRPCInferenceService"
OURS = "/headwaiter.v1.InferenceService"
SECRET_METADATA = (("authorization", f"Bearer {PLANTED}"), ("headwaiter-fairness-key", PLANTED), ("x-note", PLANTED))
GARBAGE = (b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xc3\x28", b"\x07", b"")


def _rewrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


def _linked(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "elsewhere")
    (folder / "tokenizer.json").symlink_to(folder / "elsewhere")


def _piped(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()


def _configured(text: str) -> Callable[[Path], None]:
    return lambda folder: _discard((folder.parent / "config.pbtxt").write_text(text, encoding="utf-8"))


def _discard(_: object) -> None:
    pass


def _tokenizer(made: Made) -> None:
    made.tokenizer_json = json.dumps({"model": PLANTED})


def _graph(made: Made) -> None:
    made.graph = made.graph[:-30] + PLANTED.encode()


def _crash(made: Made) -> None:
    made.graph = crashing(made.graph)


def _golden(made: Made) -> None:
    made.golden["texts"] = np.array([PLANTED] * len(made.golden["texts"]))


def _shapes(made: Made) -> None:
    made.golden["input_ids"] = made.golden["input_ids"][:, :1]


def _variant(made: Made) -> None:
    made.manifest.variants[0].graphs[0].outputs[0].name = "nothing"


# What may be wrong with a bundle before it is written and its files are listed, ...
UNWRITTEN: dict[str, Callable[[Made], None]] = {
    "tokenizer": _tokenizer,
    "graph": _graph,
    "crash": _crash,
    "golden": _golden,
    "shapes": _shapes,
    "outputs": _variant,
}
# ... and after.
WRITTEN: dict[str, Callable[[Path], None]] = {
    "no-json": _rewrite("manifest.json", lambda _: b"{"),
    "no-text": _rewrite("manifest.json", lambda _: b"\xff\xfe"),
    "unknown-field": _rewrite("manifest.json", lambda content: content.replace(b'"task"', b'"planted"')),
    "too-deep": _rewrite("manifest.json", lambda _: b"[" * 100_000),
    "altered": _rewrite("model.onnx", lambda content: content[:-1] + b"?"),
    "short": _rewrite("golden.npz", lambda content: content[:-1]),
    "gone": lambda folder: (folder / "tokenizer.json").unlink(),
    "no-manifest": lambda folder: (folder / "manifest.json").unlink(),
    "linked": _linked,
    "folder": _piped,
    "config-syntax": _configured("max_batch_size: { 1"),
    "config-name": _configured(f'name: "{PLANTED[:3]}"'),
    "config-bytes": lambda folder: _discard((folder.parent / "config.pbtxt").write_bytes(b"\xff\xfe")),
}


@dataclass(frozen=True)
class Masked:
    """A server whose place, models and log are at hand."""

    process: ServerProcess
    channel: grpc.Channel
    repository: Path
    log: Path

    def load(self, name: str, **parameters: str) -> Told:
        """Have it load a model."""
        request = grpc_service_pb2.RepositoryModelLoadRequest(model_name=name)
        for key, value in parameters.items():
            request.parameters[key].string_param = value
        return ask(self.channel, f"{OPEN}/RepositoryModelLoad", request.SerializeToString())

    def infer(self, model: str, name: str, datatype: str, values: np.ndarray) -> Told:
        """Have a model of tensors answer."""
        request = grpc_service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[values.tobytes()])
        request.inputs.add(name=name, datatype=datatype, shape=values.shape)
        return ask(self.channel, f"{OPEN}/ModelInfer", request.SerializeToString())


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Masked]:
    """It lies, and its models lie, where a planted word says so; it is told to load anything."""
    place = tmp_path_factory.mktemp(PLANTED)
    repository = place / "models"
    Made(repository / "healthy").write()
    bare(repository, picked(), name="picked")
    wants_five = model_of(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        {"x": (TensorProto.FLOAT, ["batch", "n"])},
        {"y": (TensorProto.FLOAT, ["batch", 5, 1])},
        {"shape": np.array([0, 5, 1], np.int64)},
    )
    bare(repository, wants_five, name="five")
    flags = ["--models", str(repository), "--model-control", "explicit", "--calibration", "off", "--log-level", "debug"]
    with (
        (place / "log").open("w") as log,
        running_server(*flags, "--lame-duck-seconds", "0", log=log) as process,
        grpc.insecure_channel(process.grpc) as channel,
    ):
        yield Masked(process, channel, repository, place / "log")


def _made(masked: Masked, name: str, called: str) -> Path:
    """A bundle that is damaged in a way that has a name, whatever the model is called."""
    made = Made(masked.repository / called)
    if name in UNWRITTEN:
        UNWRITTEN[name](made)
    made.write()
    if name in WRITTEN:
        WRITTEN[name](made.folder)
    return made.folder


@pytest.mark.parametrize("name", [*UNWRITTEN, *WRITTEN])
def test_refused_model_is_named_as_callers_know_it(masked: Masked, name: str) -> None:
    """Load and index say which file and what is wrong with it, in our words; the log says where it lies."""
    folder = _made(masked, name, name)
    told = masked.load(name)
    assert (told.code, told.revealed) == (grpc.StatusCode.FAILED_PRECONDITION, [])
    assert told.details.startswith(f"model '{name}' failed to load: ")
    assert re.search(rf"\b{name}/(1\b|config\.pbtxt)", told.details)
    index = ask(masked.channel, f"{OPEN}/RepositoryIndex", b"")
    assert (index.code, index.revealed) == (grpc.StatusCode.OK, [])
    assert told.details.removeprefix(f"model '{name}' failed to load: ") in index.everything
    assert str(folder.parent) in masked.log.read_text()


def test_what_libraries_say_stays_in_the_log(masked: Masked) -> None:
    """It is there for whoever runs the server."""
    said = {
        "graph": "Protobuf parsing failed",
        "tokenizer": "did not match any variant",
        "no-json": "Failed to load JSON",
    }
    for name, words in said.items():
        _made(masked, name, f"said-{name}")
        assert words not in masked.load(f"said-{name}").everything
        (line,) = [line for line in masked.log.read_text().splitlines() if f"said-{name}/1" in line and words in line]
        assert "model_failed" in line


def test_folder_that_holds_no_version_and_one_that_is_none(masked: Masked) -> None:
    """Nor is a place told where nothing was read at all."""
    (masked.repository / "empty").mkdir()
    (masked.repository / "7" / "1").mkdir(parents=True)
    Made(masked.repository / "one").write()
    tolds = [
        masked.load("empty"),
        masked.load("7"),
        masked.load("one", config='{"version_policy": {"specific": {"versions": [9]}}}'),
        masked.load("../" + PLANTED),
        masked.load("healthy", config="{" + PLANTED),
        masked.load("healthy", config='{"nothing": 1}'),
        masked.load("healthy", config='{"version_policy": {"specific": {"versions": ["x"]}}}'),
        ask(masked.channel, f"{OPEN}/RepositoryIndex", b""),
    ]
    assert [told.revealed for told in tolds[:3] + tolds[4:]] == [[]] * 7
    # A name that the caller has made up is the caller's own.
    assert tolds[3].code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("data", GARBAGE, ids=lambda data: data[:4].hex() or "nothing")
def test_bytes_that_are_no_message(masked: Masked, data: bytes) -> None:
    """Every method of every service, gRPC's own as well: refused in our words, and with no UNKNOWN or INTERNAL."""
    for name, told in call_all(masked.channel, data, metadata=SECRET_METADATA):
        assert told.revealed == [] or "Reflection" in name, (name, told)
        assert told.code not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL), (name, told)
        if data == GARBAGE[0]:
            # A stream that answers each message by itself says it in that answer.
            assert told.code is grpc.StatusCode.INVALID_ARGUMENT or "message: is no" in told.everything, (name, told)


def test_methods_that_do_not_exist(masked: Masked) -> None:
    """They are answered by gRPC itself."""
    for path in (f"{OPEN}/Nothing", "/nobody/Nothing", f"{OURS}/../{PLANTED}", "/"):
        told = ask(masked.channel, path, b"")
        assert (told.code, told.revealed) == (grpc.StatusCode.UNIMPLEMENTED, [])


def test_run_that_breaks_is_told_by_its_number_alone(masked: Masked) -> None:
    """What onnxruntime says goes to the log, under the number that the caller is given."""
    told = masked.infer("five", "x", "FP32", np.ones((1, 3), np.float32))
    assert (told.code, told.revealed) == (grpc.StatusCode.INTERNAL, [])
    found = re.fullmatch(r"internal error ([0-9a-f]{16})", told.details)
    assert found is not None
    (line,) = [line for line in masked.log.read_text().splitlines() if found[1] in line]
    assert "internal_error" in line
    assert "Reshape" in line
    refused = masked.infer("picked", "index", "INT64", np.array([99]))
    assert (refused.code, refused.revealed) == (grpc.StatusCode.INVALID_ARGUMENT, [])


def test_shared_memory_is_told_by_its_name_alone(masked: Masked) -> None:
    """The key is the caller's own; where the system keeps what goes by it is not told."""
    request = grpc_service_pb2.SystemSharedMemoryRegisterRequest(name="r", key="/none-at-all", byte_size=8)
    for key in ("/none-at-all", "/", "a/b", "sem.x", "x" * 300):
        request.key = key
        told = ask(masked.channel, f"{OPEN}/SystemSharedMemoryRegister", request.SerializeToString())
        assert (told.code, told.revealed) == (grpc.StatusCode.INVALID_ARGUMENT, [])


def test_details_hold_no_more_than_the_message() -> None:
    """The search looks into what travels packed, too."""
    status = status_pb2.Status(code=3)
    status.details.add().Pack(error_details_pb2.DebugInfo(detail=f"/srv/{PLANTED}"))
    assert revealed(status.SerializeToString().decode("latin-1")) != []
    for text in (
        'File "/opt/x.py", line 3',
        "<class 'ValueError'>",
        "bad: KeyError",
        "at core/session.cc:12",
        "in /usr/lib",
    ):
        assert revealed(text) != []
    for text in ("model 'm' failed to load: m/1/manifest.json is no manifest", "internal error 00ff", "http://host/x"):
        assert revealed(text) == []


def _http(address: str, request: bytes) -> str:
    host, _, port = address.rpartition(":")
    with closing(socket.create_connection((host, int(port)), timeout=10)) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    return answer.decode("latin-1")


def test_metrics_port_tells_nothing(masked: Masked) -> None:
    """Neither its errors nor its pages and figures."""
    address = masked.process.metrics
    requests = [b"nonsense\r\n\r\n", b"GET /nothing HTTP/1.1\r\n\r\n", b"POST /metrics HTTP/1.1\r\n\r\n"]
    requests += [b"GET /page/../../../etc/passwd HTTP/1.1\r\n\r\n", b"GET /page/%2e%2e/site.py HTTP/1.1\r\n\r\n"]
    requests += [b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", b"GET /live.json?since=x HTTP/1.1\r\n\r\n"]
    for request in requests:
        answer = _http(address, request)
        assert revealed(answer) == [], request
        assert not re.match(r"HTTP/1.1 5", answer)
    for path in ("/metrics", "/live.json", "/"):
        connection = HTTPConnection(address, timeout=10)
        with closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse().read().decode()
        assert revealed(answer) == [], path


def test_nothing_of_a_call_gets_into_log_or_metrics(masked: Masked) -> None:
    """No text, no metadata, no credential: neither of calls that go well nor of those that fail."""
    before = len(masked.log.read_text())
    texts = [["w1"], [PLANTED], [f"w1 {PLANTED}"], [PLANTED * 1000], [""], ["\0" + PLANTED]]
    for given in texts:
        for model in ("healthy", PLANTED):
            embed = inference_pb2.EmbedRequest(texts=given, model=model).SerializeToString()
            ask(masked.channel, f"{OURS}/Embed", embed, metadata=SECRET_METADATA)
            generate = inference_pb2.GenerateRequest(texts=given, model=model).SerializeToString()
            ask(masked.channel, f"{OURS}/Generate", generate, metadata=SECRET_METADATA)
    wrong = (*SECRET_METADATA, ("headwaiter-priority", PLANTED), ("traceparent", PLANTED))
    ask(masked.channel, f"{OURS}/Embed", b"", metadata=wrong)
    infer = grpc_service_pb2.ModelInferRequest(model_name="healthy", id=PLANTED)
    infer.inputs.add(name=PLANTED, datatype="BYTES", shape=[1]).contents.bytes_contents.append(PLANTED.encode())
    ask(masked.channel, f"{OPEN}/ModelInfer", infer.SerializeToString(), metadata=wrong)
    masked.infer("five", "x", "FP32", np.full((1, 3), 271828.18, np.float32))
    written = masked.log.read_text()[before:]
    # The run that broke is in it, with its stack, in which the server's own place may stand.
    assert "internal_error" in written
    assert PLANTED not in written.replace(str(masked.repository), "")
    assert "271828" not in written
    assert PLANTED not in masked.process.scrape_text()


class _BrokenMetrics(Metrics):
    """Breaks when a call is recorded, after its answer is made."""

    def call_finished(self, facts: CallFacts) -> None:
        raise RuntimeError(f"/srv/{PLANTED}")


@pytest.mark.parametrize("broken", [False, True])
async def test_our_own_faults_are_masked(*, broken: bool) -> None:
    """Wherever at the edge something raises that nobody has thought of; a fault in recording is nothing to the call."""

    async def method(data: bytes, _permit: Permit, _crossing: Crossing) -> bytes:
        if data == b"raise":
            raise ZeroDivisionError(f"/srv/{PLANTED}")
        return data

    edge = Edge(Admission(10, 1000), _BrokenMetrics() if broken else Metrics())
    echo = edge.unary("test.Service/Echo", method)
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(echo)
    services = (grpc.method_handlers_generic_handler("test.Service", {"Echo": handler}),)
    server = GrpcServer(services, [], max_message_bytes=1000, max_streams=10)
    target = server.listen("127.0.0.1:0")
    await server.start()

    def told(data: bytes) -> Told:
        with grpc.insecure_channel(target) as channel:
            return ask(channel, "/test.Service/Echo", data)

    try:
        answered, failed = [await asyncio.to_thread(told, data) for data in (b"fine", b"raise")]
    finally:
        await server.stop(0)
    assert (answered.code, failed.code) == (grpc.StatusCode.OK, grpc.StatusCode.INTERNAL)
    assert (answered.revealed, failed.revealed) == ([], [])


def test_route_that_breaks_says_no_more_than_that() -> None:
    """On the metrics port, too, what was raised goes to the log alone."""

    def broken(_: Request) -> Response:
        raise OSError(2, PLANTED, f"/srv/{PLANTED}")

    endpoint = serve("127.0.0.1", 0, {"/": broken})
    try:
        answer = _http(f"127.0.0.1:{endpoint.port}", b"GET / HTTP/1.1\r\n\r\n")
    finally:
        endpoint.close()
    assert answer.startswith("HTTP/1.1 500 ")
    assert revealed(answer) == []
