"""Holds the Open Inference Protocol to `headwaiter.v1` and writes the page.

`make bench`, or `python benchmarks/open_inference.py --packed build/encoders/packed`. Either service of the same server
does the same work, with whoever comes first in one round coming second in the next; ratios are taken round by round.
And a tensor of 4 MiB goes through a model that gives it back: how fast, and with how much memory.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

import grpc  # noqa: E402 - after the path is set
from headwaiter_proto.inference import grpc_service_pb2 as inference  # noqa: E402
from headwaiter_proto.v1 import inference_pb2  # noqa: E402
from headwaiter_server.cpu import available_cpus, describe_processor  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from rich.progress import Progress  # noqa: E402

from benchmarks.encoders.aims import Aim, Bound, at_least, at_most  # noqa: E402
from benchmarks.encoders.choices import FULL  # noqa: E402
from benchmarks.encoders.figures import Round  # noqa: E402
from benchmarks.encoders.load import EMBED  # noqa: E402
from benchmarks.encoders.null_bundle import write_null_bundle  # noqa: E402
from benchmarks.encoders.report import Page, aims_table, spreads  # noqa: E402
from benchmarks.encoders.run import make_workloads  # noqa: E402
from benchmarks.encoders.workloads import write_workloads  # noqa: E402
from benchmarks.open_inference_load import INFER, METHODS, embed_request, infer_texts  # noqa: E402
from benchmarks.page import write_section  # noqa: E402
from benchmarks.servers import MeasuredServer, measured_module, measured_server, run_json  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks.md"
SECTION = "open-inference"
HEADWAITER, OPEN_INFERENCE = METHODS
IDENTITY, TENSOR_INPUT, TENSOR_OUTPUT = "identity", "x", "y"
# FP32: 4 MiB.
TENSOR_COLUMNS = 1 << 20
TENSOR_BYTES = 4 * TENSOR_COLUMNS
_PEAK = "peak beyond idle, in tensors"
# The newest that every supported onnxruntime reads.
_OPSET, _IR_VERSION = 20, 9


@dataclass(frozen=True)
class Effort:
    """How much is measured in a round.

    Attributes:
        null_calls: Calls to the null model by either service.
        texts: Texts for the real model by either service, one a call and 32 a call.
        tensors: Calls with the tensor.
    """

    null_calls: int
    texts: int
    tensors: int


FULL_EFFORT, QUICK_EFFORT = Effort(6000, 1920, 100), Effort(500, 128, 10)
# Calls outstanding, and texts in each.
MANY, BULK = (64, 1), (8, 32)


def load_name(load: tuple[int, int]) -> str:
    """Of one load."""
    return f"{load[0]} x {load[1]}"


def aims() -> list[Aim]:
    """What should come out."""
    null = f"null model, {load_name(MANY)}"
    wanted = [_against(null, "calls/s", "calls/s of a null model by ModelInfer against Embed", at_least(0.90))]
    for load in (MANY, BULK):
        name = load_name(load)
        wanted.append(
            _against(
                f"MiniLM, {name}", "CPU s/1000 texts", f"CPU a text of MiniLM by ModelInfer against Embed, {name}",
                at_most(1.05),
            )
        )  # fmt: skip
    peak = f"tensor of 4 MiB: {_PEAK}"
    return [*wanted, Aim("memory at the peak beyond idle, in tensors of 4 MiB", peak, None, at_most(4.0))]


def _against(work: str, quantity: str, name: str, bound: Bound) -> Aim:
    over, under = (f"{work}, {service}: {quantity}" for service in (OPEN_INFERENCE, HEADWAITER))
    return Aim(name, over, under, bound)


@dataclass(frozen=True)
class Setup:
    """What all rounds share.

    Attributes:
        null: Serves the model that computes nothing.
        real: Serves the real one.
        model: Name of both.
        texts: The workloads' file.
        tensors: Repository with the model that gives back what it gets.
        effort: How much is measured.
    """

    null: MeasuredServer
    real: MeasuredServer
    model: str
    texts: Path
    tensors: Path
    effort: Effort


@contextmanager
def prepared(packed: Path, model: str, work: Path, effort: Effort) -> Iterator[Setup]:
    """Write models and texts, start the servers, see that both services answer alike, and warm them."""
    bundle = max((packed / model).glob("[0-9]*"), key=lambda folder: int(folder.name))
    write_null_bundle(bundle, work / "null" / model / "1")
    write_identity(work / "tensors" / IDENTITY / "1")
    texts = work / "texts.json"
    write_workloads(texts, make_workloads(bundle, FULL))
    with ExitStack() as stack:
        null, real = (stack.enter_context(measured_server(each)) for each in (work / "null", packed))
        setup = Setup(null, real, model, texts, work / "tensors", effort)
        for server in (null, real):
            check_answers(server.target, model)
            for service in METHODS:
                send_texts(setup, server, service, MANY, 64, 0)
        yield setup


def write_identity(folder: Path) -> None:
    """A bare ONNX file, as other servers' repositories hold them: FP32 of any two sizes in and out."""
    shape = ["rows", "columns"]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in (TENSOR_INPUT, TENSOR_OUTPUT)
    )
    graph = helper.make_graph(
        [helper.make_node("Identity", [TENSOR_INPUT], [TENSOR_OUTPUT])], IDENTITY, inputs, outputs
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(made.SerializeToString())


def check_answers(target: str, model: str) -> None:
    """Both services must give the same vectors, or there is nothing to compare."""
    words = ["the same text", "by either service"]
    typed = inference_pb2.EmbedResponse.FromString(_called(target, EMBED, embed_request(model, words)))
    answer = inference.ModelInferResponse.FromString(_called(target, INFER, infer_texts(model, words)))
    assert answer.raw_output_contents[0] == typed.vectors, "the services disagree"


def _called(target: str, method: str, request: bytes) -> bytes:
    with grpc.insecure_channel(target) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        return call(request)


def send_texts(
    setup: Setup, server: MeasuredServer, service: str, load: tuple[int, int], calls: int, order: int
) -> dict[str, float]:
    """One load on one server by one service."""
    outstanding, texts_per_call = load
    before = server.cpu_seconds()
    result = run_json(
        "benchmarks.open_inference_load", "texts", server.target, "--service", service, "--model", setup.model,
        "--texts", setup.texts, "--order", order, "--calls", calls, "--outstanding", outstanding,
        "--texts-per-call", texts_per_call,
    )  # fmt: skip
    cpu_seconds = server.cpu_seconds() - before
    assert not result["refused_calls"], f"{service}: {result['refused_calls']} calls were refused"
    return {
        "calls/s": result["calls_per_second"],
        "CPU s/1000 texts": 1000 * cpu_seconds / (calls * texts_per_call),
        "p50 ms": 1000 * result["p50_seconds"],
    }


def measure_tensor(setup: Setup) -> Round:
    """In servers of their own, which have never seen a large one: one call at a time, then four."""
    figures: Round = {}
    with measured_module("benchmarks.encoders.echo_server") as echo:
        figures |= _send_tensors(echo, "grpc.aio echo of 4 MiB", setup.effort.tensors)
    with measured_server(setup.tensors) as server:
        check_tensor(server.target)
        figures |= _send_tensors(server, "tensor of 4 MiB", setup.effort.tensors)
    echoed, passed = (figures[f"{name}: {_PEAK}"] for name in ("grpc.aio echo of 4 MiB", "tensor of 4 MiB"))
    return figures | {"tensor of 4 MiB: peak beyond the echo's, in tensors": passed - echoed}


def _send_tensors(server: MeasuredServer, name: str, calls: int) -> Round:
    def send(columns: int, outstanding: int) -> dict[str, float]:
        result: dict[str, float] = run_json(
            "benchmarks.open_inference_load", "tensor", server.target, "--model", IDENTITY, "--input", TENSOR_INPUT,
            "--calls", calls, "--columns", columns, "--outstanding", outstanding,
        )  # fmt: skip
        return result

    send(1, 1)
    idle = server.resident_bytes()
    figures: Round = {f"{name}: idle MiB": idle / 2**20}
    for outstanding, load in ((1, name), (4, f"{name}, 4 outstanding")):
        server.forget_peak()
        before = server.cpu_seconds()
        result = send(TENSOR_COLUMNS, outstanding)
        figures |= {
            f"{load}: calls/s": result["calls_per_second"],
            f"{load}: CPU ms a call": 1000 * (server.cpu_seconds() - before) / calls,
            f"{load}: {_PEAK}": (server.peak_bytes() - idle) / TENSOR_BYTES,
        }
    return figures | {f"{name}: MiB afterwards": server.resident_bytes() / 2**20}


def check_tensor(target: str) -> None:
    """What comes back must be what went in."""
    tensor = inference.ModelInferRequest.InferInputTensor(name=TENSOR_INPUT, datatype="FP32", shape=[1, 3])
    request = inference.ModelInferRequest(model_name=IDENTITY, inputs=[tensor], raw_input_contents=[b"abcdefghijkl"])
    answer = inference.ModelInferResponse.FromString(_called(target, INFER, request.SerializeToString()))
    assert list(answer.raw_output_contents) == [b"abcdefghijkl"], "the tensor came back another"


def measure_round(setup: Setup, number: int, progress: Progress) -> Round:
    """One turn of both services at everything."""
    effort = setup.effort
    work = [
        (f"null model, {load_name(MANY)}", setup.null, MANY, effort.null_calls),
        *((f"MiniLM, {load_name(load)}", setup.real, load, effort.texts // load[1]) for load in (MANY, BULK)),
    ]
    services = list(METHODS) if number % 2 == 0 else list(METHODS)[::-1]
    figures: Round = {}
    task = progress.add_task("round", total=len(work) * len(services) + 1)
    for name, server, load, calls in work:
        for service in services:
            measured = send_texts(setup, server, service, load, calls, number)
            figures |= {f"{name}, {service}: {quantity}": value for quantity, value in measured.items()}
            progress.advance(task)
    figures |= measure_tensor(setup)
    progress.remove_task(task)
    return figures


def markdown(rounds: list[Round]) -> str:
    """The page's section: the aims, then every figure."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "grpcio", "protobuf", "numpy"))
    machine = f"{available_cpus()} cores ({describe_processor()})"
    lines = [
        f"Measured on: {machine}, CPython {platform.python_version()}, {versions}; {len(rounds)} rounds.",
        "",
        aims_table(aims(), rounds),
        "",
        "| figure | median (smallest to largest) |",
        "|---|---:|",
        *(f"| {name} | {spread} |" for name, spread in sorted(spreads(rounds).items())),
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packed", type=Path, required=True, help="model repository with the packed bundle")
    parser.add_argument("--model", default="minilm", help="its name")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one small round, to see that everything works; no page")
    parser.add_argument("--json", type=Path, help="also write the figures of every round here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    effort, count = (QUICK_EFFORT, 1) if options.quick else (FULL_EFFORT, options.rounds)
    with (
        tempfile.TemporaryDirectory() as work,
        Progress() as progress,
        prepared(options.packed, options.model, Path(work), effort) as setup,
    ):
        rounds = [
            measure_round(setup, number, progress) for number in progress.track(range(count), description="rounds")
        ]
    print(table := markdown(rounds))
    if options.json:
        options.json.write_text(json.dumps({"rounds": rounds}, indent=1) + "\n")
    if not options.quick:
        write_section(PAGE, Page(SECTION, table))


if __name__ == "__main__":
    main()
