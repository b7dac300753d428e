"""Requests of tensors, held to the model's signature before any of them waits; and loaded models that answer them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from headwaiter_server.config import ServerSettings
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.lifecycle.catalog import Catalog
from headwaiter_server.metrics import Metrics
from headwaiter_server.model.contract import Array, Signature, TensorSpec
from headwaiter_server.model.datatypes import BY_NAME
from headwaiter_server.pipeline import (
    EmbeddingRequest,
    Pipeline,
    TensorReply,
    TensorRequest,
    TokenizationRequest,
)
from headwaiter_server.pipeline.tensors import read_tensors
from headwaiter_server.rpc.models import model_info
from headwaiter_server.rpc.open_inference.config import Setup, config_of
from headwaiter_server.scheduling.admission import Admission
from headwaiter_server.scheduling.calls import Terms
from headwaiter_server.scheduling.dispatcher import Dispatcher
from headwaiter_server.scheduling.forecast import Forecast
from headwaiter_server.wiring import Wiring
from onnx import TensorProto

from .tensor_graphs import bare, centred, doubled, identity, picked

SIGNATURE = Signature(
    (
        TensorSpec("x", "FP32", (-1, -1, 3)),
        TensorSpec("words", "BYTES", (-1, 1)),
        TensorSpec("k", "BF16", (-1, 1), optional=True),
    ),
    (TensorSpec("y", "FP32", (-1, 3)), TensorSpec("z", "INT64", (-1,))),
    max_batch_size=4,
)


def inputs(rows: int = 2, **changes: Array | None) -> dict[str, Array]:
    words = np.array([["é".encode()]] * rows, object).reshape(rows, 1)
    found: dict[str, Array | None] = {"x": np.zeros((rows, 5, 3), np.float32), "words": words, **changes}
    return {name: array for name, array in found.items() if array is not None}


def zeros(shape: tuple[int, ...], datatype: str = "FP32") -> Array:
    return np.zeros(shape, BY_NAME[datatype].dtype)


@pytest.mark.parametrize(
    ("given", "outputs", "field", "words"),
    [
        (inputs(x=None), [], "inputs", "'x' is missing, which the model needs"),
        (inputs(other=zeros((2,))), [], "inputs[other]", "no such input, only x, words, k"),
        (inputs() | {"o" * 200: zeros((2,))}, [], f"inputs[{'o' * 100}...]", "no such input"),
        (inputs(x=zeros((2, 5, 3), "FP64")), [], "inputs[x].datatype", "is float64, expected FP32"),
        (inputs(words=zeros((2, 1), "INT8")), [], "inputs[words].datatype", "is int8, expected BYTES"),
        (inputs(k=zeros((2, 1), "FP16")), [], "inputs[k].datatype", "is float16, expected BF16"),
        (inputs(x=zeros((2, 3))), [], "inputs[x].shape", "is [2, 3], expected [-1, -1, 3]"),
        (inputs(x=zeros((2, 5, 4))), [], "inputs[x].shape", "is [2, 5, 4], expected [-1, -1, 3]"),
        (inputs(x=zeros((3, 5, 3))), [], "inputs[words].shape", "has 2 rows, x has 3"),
        (inputs(k=zeros((1, 1), "BF16")), [], "inputs[k].shape", "has 1 rows, x has 2"),
        (inputs(0), [], "inputs[x].shape", "has no rows"),
        (inputs(5), [], "inputs[x].shape", "has 5 rows, the limit is 4"),
        (inputs(words=np.array([[b"a"], [b"\xff"]], object)), [], "inputs[words].contents", "no UTF-8"),
        (inputs(), ["y", "w"], "outputs[1].name", "'w' is none; the model has y, z"),
    ],
)
def test_wrong_request_is_refused_by_its_field(
    given: Mapping[str, Array], outputs: list[str], field: str, words: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read_tensors(SIGNATURE, TensorRequest("m", 1, given, outputs))
    assert refused.value.field == field
    assert words in refused.value.description


# As floats, and as the bits of BF16: none of them is a finite number, and the last is the largest that is one.
NO_NUMBERS = [(np.nan, 0x7FC0), (np.inf, 0x7F80), (-np.inf, 0xFF80), (-np.nan, 0xFF81)]
LARGEST = {"FP16": 65504.0, "FP32": 3.4028234e38, "FP64": 1.7976931348623157e308, "BF16": 0x7F7F}


@pytest.mark.parametrize("datatype", list(LARGEST))
@pytest.mark.parametrize(("number", "bits"), NO_NUMBERS)
def test_what_is_no_finite_number_is_refused_or_passed_on(datatype: str, number: float, bits: int) -> None:
    """By the name of its tensor and its place there, in every type of floating numbers; or as it is, if so set."""
    signature = Signature((TensorSpec("x", datatype, (-1, 3)), TensorSpec("words", "BYTES", (-1, 1))), (), 4)
    array = zeros((2, 3), datatype)
    array[:] = LARGEST[datatype]
    array[0, 0] *= -1 if datatype != "BF16" else 1
    request = TensorRequest("m", 1, {"x": array, "words": inputs()["words"]})
    assert read_tensors(signature, request)[0].arrays["x"] is array
    array[1, 2] = bits if datatype == "BF16" else number
    with pytest.raises(InvalidRequestError) as refused:
        read_tensors(signature, request, "refuse")
    assert refused.value.field == "inputs[x].contents"
    assert "NaN or an infinity at [1, 2]" in refused.value.description
    assert read_tensors(signature, request)[0].arrays["x"] is array


def test_nothing_and_single_numbers_are_looked_through() -> None:
    """Tensors without elements, and without axes."""
    signature = Signature((TensorSpec("a", "FP16", (-1,)), TensorSpec("b", "FP32", ())), (), 0)
    nothing = {"a": zeros((0,), "FP16"), "b": np.array(0.5, np.float32)}
    assert read_tensors(signature, TensorRequest("m", 1, nothing))[0].rows == 1
    with pytest.raises(InvalidRequestError, match="infinity at \\[\\]"):
        read_tensors(signature, TensorRequest("m", 1, nothing | {"b": np.array(np.inf, np.float32)}), "refuse")


async def test_server_does_with_them_what_it_is_set_to(tmp_path: Path) -> None:
    """A setting of the whole server; what is passed on does not change a bit of the answers of its mates."""
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    spoiled = rows.copy()
    spoiled[3, 1] = np.nan
    async with served(tmp_path / "a", doubled(), nonfinite_inputs="refuse") as it:
        with pytest.raises(InvalidRequestError, match="--nonfinite-inputs"):
            await it.ask(spoiled)
        alone = await it.ask(rows)
    async with served(tmp_path / "b", doubled(), batch_delay_seconds=0.05) as it:
        replies = await asyncio.gather(it.ask(rows), it.ask(spoiled), it.ask(rows))
    assert [reply.timings.batch_size for reply in replies] == [24] * 3
    for reply in replies[::2]:
        assert reply.outputs["sum"].tobytes() == alone.outputs["sum"].tobytes()
        assert reply.outputs["double"].tobytes() == alone.outputs["double"].tobytes()
    assert np.isnan(replies[1].outputs["sum"]).tolist() == [False] * 3 + [True] + [False] * 4


@pytest.mark.parametrize(("nonfinite", "size", "threads"), [("pass", 4, 0), ("refuse", 4, 1), ("refuse", 2, 0)])
async def test_thread_is_taken_only_to_look_through_many_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nonfinite: str, size: int, threads: int
) -> None:
    """Numbers that are passed on cost nothing to read, however many they are; 16 MB are looked through elsewhere."""
    to_thread, taken = asyncio.to_thread, 0

    async def counted(function: Callable[[], Any]) -> Any:  # noqa: ANN401 - as it is
        nonlocal taken
        taken += 1
        return await to_thread(function)

    async with served(tmp_path, identity(TensorProto.FLOAT, ("n", 1 << 20)), nonfinite_inputs=nonfinite) as it:
        monkeypatch.setattr(asyncio, "to_thread", counted)
        reply = await it.ask(np.ones((size, 1 << 20), np.float32))
    assert reply.outputs["y"].shape == (size, 1 << 20)
    assert taken == threads


def test_request_is_read_without_a_copy() -> None:
    """Only strings are made anew, as ONNX has text."""
    given = inputs()
    source, wanted = read_tensors(SIGNATURE, TensorRequest("m", 1, given, ["z", "y", "z"]))
    assert source.arrays["x"] is given["x"]
    assert source.arrays["words"].tolist() == [["é"], ["é"]]
    assert wanted == ("z", "y")
    assert (source.rows, list(source.arrays)) == (2, ["x", "words"])
    assert read_tensors(SIGNATURE, TensorRequest("m", 1, given))[1] == ("y", "z")


def test_rows_are_counted_only_where_there_are_any() -> None:
    whole = Signature((TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "FP32", (-1,))), SIGNATURE.outputs, 0)
    arrays = {"a": zeros((100,)), "b": zeros((3,))}
    assert read_tensors(whole, TensorRequest("m", 1, arrays))[0].rows == 1


class Served:
    """A pipeline over models as a server loads them."""

    def __init__(self, settings: ServerSettings) -> None:
        self.metrics = Metrics()
        self.dispatcher = Dispatcher(settings.effective_workers, on_crash=lambda: None)
        self.catalog = Catalog()
        self.wiring = Wiring(settings, self.dispatcher, Forecast(settings.effective_workers), self.metrics, None)
        self.pipeline = Pipeline(
            self.catalog, self.dispatcher, self.metrics, max_texts=100, nonfinite_inputs=settings.nonfinite_inputs
        )
        self.admission = Admission(1000, 1 << 30, 10_000)

    async def ask(self, array: Array, input_name: str = "x") -> TensorReply:
        now = self.pipeline.clock()
        with self.admission.admit(1) as permit:
            request = TensorRequest("m", 0, {input_name: array})
            return await self.pipeline.infer_tensors(permit, Terms(now), request)


@asynccontextmanager
async def served(tmp_path: Path, *graphs: Any, config: str | None = None, **settings: Any) -> AsyncIterator[Served]:  # noqa: ANN401
    chosen = ServerSettings(models=tmp_path, calibration_cache=tmp_path / "cache", workers=1, **settings)
    it = Served(chosen)
    try:
        for name, graph in zip("mn", graphs, strict=False):
            location = bare(tmp_path, graph, config, name)
            it.catalog.add(it.wiring.place(it.wiring.build(location, "fp32", None, live=False, tried="")))
        yield it
    finally:
        assert await it.dispatcher.close(10)


async def test_bare_model_serves_calibrated_in_rows(tmp_path: Path) -> None:
    """Its budget is of rows, its runs count as rows and as no tokens, and its calls are priced."""
    async with served(tmp_path, doubled()) as it:
        asked = [np.full((rows, 3), rows, np.float32) for rows in (1, 2, 5, 64)]
        replies = await asyncio.gather(*(it.ask(each) for each in asked))
        for x, reply in zip(asked, replies, strict=True):
            np.testing.assert_array_equal(reply.outputs["double"], 2 * x)
            assert reply.timings.batch_size >= len(x)
            assert reply.timings.batch_tokens == 0
        lane: Any = it.catalog.find("m", 0).lane
        assert 1 <= lane.budget.tokens <= 64
        assert lane.forecast.full_run_seconds > 0
        sample = it.metrics.registry.get_sample_value
        assert sample("headwaiter_batch_size_sum", {"model": "m"}) == 72
        assert not sample("headwaiter_batch_tokens_count", {"model": "m"})
        assert not sample("headwaiter_computed_tokens_total", {"model": "m"})


async def test_configuration_is_followed(tmp_path: Path) -> None:
    config = "max_batch_size: 6 dynamic_batching {preferred_batch_size: [2, 4] max_queue_delay_microseconds: 1000}"
    config += " instance_group [{count: 3}]"
    async with served(tmp_path, doubled(), config=config) as it:
        model = it.catalog.find("m", 0)
        lane: Any = model.lane
        assert (model.signature.max_batch_size, lane.budget.tokens, lane.most_runs) == (6, 4, 3)
        assert lane.delay is not None
        reply = await it.ask(np.ones((6, 2), np.float32))
        assert reply.outputs["sum"].shape == (6,)


async def test_configuration_that_is_told_can_be_followed(tmp_path: Path) -> None:
    """What ModelConfig says of a model, written beside its versions, makes the same model."""
    config = "max_batch_size: 6 dynamic_batching {preferred_batch_size: 4} instance_group [{count: 2}]"
    setup = Setup(4, "auto", 0.0, cached=True, version_policy=lambda _: "latest:1")
    async with served(tmp_path, doubled(), config=config) as it:
        told = config_of(it.catalog.find("m", 0), setup)
    async with served(tmp_path / "again", doubled(), config=text_format.MessageToString(told)) as it:
        assert config_of(it.catalog.find("m", 0), setup) == told


async def test_index_beyond_a_table_is_the_callers_fault(tmp_path: Path) -> None:
    """And nobody's who shares its run."""
    async with served(tmp_path, picked()) as it:
        good, bad = np.array([1, 3]), np.array([1 << 40])
        replies = await asyncio.gather(
            *(it.ask(each, input_name="index") for each in [good, bad] * 3), return_exceptions=True
        )
        for reply in replies[1::2]:
            assert isinstance(reply, InvalidRequestError)
            assert reply.field == "inputs"
        assert [reply.outputs["y"].tolist() for reply in replies[::2] if isinstance(reply, TensorReply)] == [
            [[2, 3], [6, 7]]
        ] * 3
        assert not it.metrics.registry.get_sample_value("headwaiter_engine_failures_total", {"model": "m"})


async def test_rows_that_lean_on_one_another_are_answered_each_request_by_itself(tmp_path: Path) -> None:
    async with served(tmp_path, centred()) as it:
        one, other = np.ones((1, 4), np.float32), np.arange(8, dtype=np.float32).reshape(2, 4)
        replies = await asyncio.gather(*(it.ask(each) for each in [one, other] * 4))
        for x, reply in zip([one, other] * 4, replies, strict=True):
            np.testing.assert_array_equal(reply.outputs["y"], x - x.mean(0))
            assert reply.timings.batch_size == len(x)


@pytest.mark.parametrize("calibration", ["off", "fresh"])
async def test_model_without_rows_serves(calibration: str, tmp_path: Path) -> None:
    async with served(tmp_path, identity(TensorProto.STRING, (2, "n")), calibration=calibration) as it:
        words = np.array([["a", "é", ""], ["b", "c", "\0"]], object)
        encoded = np.frompyfunc(str.encode, 1, 1)(words)
        reply = await it.ask(encoded)
        assert reply.outputs["y"].tolist() == encoded.tolist()
        assert reply.timings.batch_size == 1


async def test_model_of_tensors_is_described_and_takes_no_texts(tmp_path: Path) -> None:
    async with served(tmp_path, doubled()) as it:
        info = model_info(it.catalog.find("m", 0))
        assert (info.name, info.version, info.architecture) == ("m", 1, "model")
        asked: list[tuple[Callable[..., Any], Any]] = [
            (it.pipeline.tokenize, TokenizationRequest("m", 0, ["a"])),
            (it.pipeline.embed, EmbeddingRequest("m", 0, ["a"])),
        ]
        for method, request in asked:
            with it.admission.admit(1) as permit, pytest.raises(InvalidRequestError) as refused:
                await method(permit, Terms(it.pipeline.clock()), request)
            assert refused.value.field == "model"
