"""The benchmark of the Open Inference Protocol: its messages, its model, and that it measures what the aims need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
from headwaiter_proto.inference import grpc_service_pb2 as inference
from rich.progress import Progress

from benchmarks import open_inference
from benchmarks.open_inference import (
    FULL_EFFORT,
    TENSOR_BYTES,
    Setup,
    aims,
    markdown,
    measure_round,
    write_identity,
)
from benchmarks.open_inference_load import infer_tensor, infer_texts
from benchmarks.servers import MeasuredServer


def test_texts_are_a_column_of_bytes() -> None:
    request = inference.ModelInferRequest.FromString(infer_texts("m", ["né", ""]))
    (tensor,) = request.inputs
    assert (request.model_name, tensor.name, tensor.datatype, list(tensor.shape)) == ("m", "text", "BYTES", [2, 1])
    assert list(request.raw_input_contents) == [b"\x03\0\0\0n\xc3\xa9" + b"\0\0\0\0"]


def test_a_tensor_is_as_large_as_it_says() -> None:
    request = inference.ModelInferRequest.FromString(infer_tensor("m", "x", 1, TENSOR_BYTES // 4))
    assert list(request.inputs[0].shape) == [1, 1 << 20]
    assert len(request.raw_input_contents[0]) == TENSOR_BYTES == 4 << 20


def test_the_model_gives_back_what_it_gets(tmp_path: Path) -> None:
    write_identity(tmp_path / "1")
    session = onnxruntime.InferenceSession(tmp_path / "1" / "model.onnx")
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(session.run(["y"], {"x": values})[0], values)


class Server:
    """A server whose every call takes a millisecond of the processor, and which grows by two tensors."""

    target = "nowhere"

    def __init__(self) -> None:
        self.seconds = 0.0

    def cpu_seconds(self) -> float:
        self.seconds += 1.0
        return self.seconds

    def resident_bytes(self) -> int:
        return 100 << 20

    def forget_peak(self) -> None:
        """There is none yet."""

    def peak_bytes(self) -> int:
        return self.resident_bytes() + 2 * TENSOR_BYTES


def test_a_round_measures_everything_that_an_aim_is_about(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both services get the same texts, in turn; every aim finds its figures, and the page has them."""
    sent: list[tuple[Any, ...]] = []

    def run_json(module: str, *arguments: object) -> dict[str, float]:
        sent.append(arguments)
        return {"calls_per_second": 100.0, "refused_calls": 0, "p50_seconds": 0.01}

    @contextmanager
    def measured_server(models: object) -> Iterator[Server]:
        yield Server()

    monkeypatch.setattr(open_inference, "run_json", run_json)
    monkeypatch.setattr(open_inference, "measured_server", measured_server)
    monkeypatch.setattr(open_inference, "measured_module", measured_server)
    monkeypatch.setattr(open_inference, "check_tensor", lambda target: None)
    server = cast("MeasuredServer", Server())
    setup = Setup(server, server, "minilm", tmp_path / "texts", tmp_path, FULL_EFFORT)
    with Progress(disable=True) as progress:
        rounds = [measure_round(setup, number, progress) for number in (0, 1)]
    values = {aim.name: aim.value(rounds[0]) for aim in aims()}
    assert len(values) == 4
    assert set(values.values()) == {1.0, 2.0}
    services = [each[each.index("--service") + 1] for each in sent if each[0] == "texts"]
    assert services == ["headwaiter", "open-inference"] * 3 + ["open-inference", "headwaiter"] * 3
    text = markdown(rounds)
    assert text.count("| reached |") == 4
    assert all(name in text for name in rounds[0])
