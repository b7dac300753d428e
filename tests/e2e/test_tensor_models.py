"""ONNX files as they come, in a server: loaded, described, batched by like shape, and answered over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from headwaiter_proto.inference import grpc_service_pb2, grpc_service_pb2_grpc
from headwaiter_proto.v1 import bundle_pb2, inference_pb2, inference_pb2_grpc
from headwaiter_server.model.contract import Array
from onnx import TensorProto
from unit.server.tensor_graphs import bare, doubled, identity, picked, shifted

from .process import ServerProcess, run_command, running_server

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("tensors")
    # On a busy machine each call may find the worker idle: that some share runs is seen to, whatever was calibrated.
    batching = "dynamic_batching { preferred_batch_size: 16 max_queue_delay_microseconds: 1000000 }"
    bare(repository, doubled(), f"max_batch_size: 16 {batching}", name="doubled")
    bare(repository, picked(), name="picked")
    bare(repository, shifted(), name="shifted")
    bare(repository, identity(TensorProto.BFLOAT16, (2, "n")), name="whole")
    return repository


@pytest.fixture(scope="module")
def tensor_server(models: Path) -> Iterator[ServerProcess]:
    with running_server("--models", str(models), "--workers", "1") as process:
        yield process


def request_of(model: str, name: str, datatype: str, array: Array) -> grpc_service_pb2.ModelInferRequest:
    request = grpc_service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[array.tobytes()])
    request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    return request


def read(reply: grpc_service_pb2.ModelInferResponse, name: str) -> Array:
    index = [each.name for each in reply.outputs].index(name)
    flat = np.frombuffer(reply.raw_output_contents[index], np.float32)
    return flat.reshape(tuple(reply.outputs[index].shape))


async def test_many_callers_of_many_shapes_get_their_own_rows(tensor_server: ServerProcess) -> None:
    """Those of like shape share runs, of at most the rows that the configuration allows."""
    generator = np.random.default_rng(0)
    inputs = [generator.standard_normal((1 + index % 5, 1 + index % 3)).astype(np.float32) for index in range(300)]
    async with grpc.aio.insecure_channel(tensor_server.grpc) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = [stub.ModelInfer(request_of("doubled", "x", "FP32", x), timeout=30) for x in inputs]
        replies = await asyncio.gather(*calls)
        trailers = [dict(await call.trailing_metadata()) for call in calls]
    for x, reply in zip(inputs, replies, strict=True):
        np.testing.assert_array_equal(read(reply, "double"), 2 * x)
        np.testing.assert_allclose(read(reply, "sum"), x.sum(1), rtol=1e-5, atol=1e-6)
    sizes = [int(each["headwaiter-batch-size"]) for each in trailers]
    assert all(len(x) <= size <= 16 for x, size in zip(inputs, sizes, strict=True))
    assert any(len(x) < size for x, size in zip(inputs, sizes, strict=True))
    counted = tensor_server.scrape()
    assert counted['headwaiter_batch_size_sum{model="doubled"}'] == sum(map(len, inputs))
    assert counted['headwaiter_computed_tokens_total{model="doubled"}'] == 0


async def test_bad_index_harms_nobody_else(tensor_server: ServerProcess) -> None:
    async with grpc.aio.insecure_channel(tensor_server.grpc) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        indices = [np.array([99 if each % 5 == 0 else each % 4]) for each in range(40)]
        answers = await asyncio.gather(
            *(stub.ModelInfer(request_of("picked", "index", "INT64", each), timeout=30) for each in indices),
            return_exceptions=True,
        )
    for index, answer in zip(indices, answers, strict=True):
        if index[0] == 99:
            assert isinstance(answer, grpc.RpcError)
            assert answer.code() == grpc.StatusCode.INVALID_ARGUMENT
        else:
            assert isinstance(answer, grpc_service_pb2.ModelInferResponse)
            assert read(answer, "y")[0].tolist() == [2 * index[0], 2 * index[0] + 1]


async def test_rows_beside_a_huge_number_keep_their_answers(tensor_server: ServerProcess) -> None:
    """The graph takes the largest number of its batch: found out at load, so that each request runs alone."""
    mild, huge = np.arange(4, dtype=np.float32)[np.newaxis], np.full((1, 4), 1e30, np.float32)
    async with grpc.aio.insecure_channel(tensor_server.grpc) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        asked = [request_of("shifted", "x", "FP32", each) for each in [mild, huge] * 20]
        replies = await asyncio.gather(*(stub.ModelInfer(each, timeout=30) for each in asked))
    expected = np.exp(mild) / np.exp(mild).sum()
    for reply in replies[::2]:
        np.testing.assert_allclose(read(reply, "y"), expected, rtol=1e-5)


def test_models_of_tensors_are_described(tensor_server: ServerProcess) -> None:
    with grpc.insecure_channel(tensor_server.grpc) as channel:
        listed = inference_pb2_grpc.InferenceServiceStub(channel).ListModels(inference_pb2.ListModelsRequest())
        assert {each.name: each.task for each in listed.models} == dict.fromkeys(
            ["doubled", "picked", "shifted", "whole"], bundle_pb2.TASK_TENSOR
        )
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        metadata = stub.ModelMetadata(grpc_service_pb2.ModelMetadataRequest(name="whole"))
        assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [("x", "BF16", [2, -1])]
        assert metadata.properties["joined"] == "false"
        config = stub.ModelConfig(grpc_service_pb2.ModelConfigRequest(name="doubled")).config
        assert (config.max_batch_size, [list(each.dims) for each in config.output]) == (16, [[-1], []])
        reply = stub.ModelInfer(request_of("whole", "x", "BF16", np.array([[1], [2]], np.uint16)))
        assert reply.raw_output_contents[0] == b"\x01\0\x02\0"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("optimization {}", "m/config.pbtxt: optimization: this server does not do that"),
        ("optimisation {}", "m/config.pbtxt: optimisation: there is no such field"),
        ("instance_group [{kind: KIND_GPU}]", "instance_group.kind: this server runs models on the processor"),
        ('input [{name: "x" data_type: TYPE_INT8 dims: [1]}]', "input x: data_type is INT8, the graph says FP32"),
    ],
)
def test_configuration_that_cannot_be_followed_keeps_the_server_from_starting(
    config: str, words: str, tmp_path: Path
) -> None:
    """The field is named, and there is no stack."""
    bare(tmp_path, doubled(), config)
    ended = run_command("--models", str(tmp_path), "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
    assert ended.returncode == 1
    said = (ended.stderr + ended.stdout).replace('\\"', '"')
    assert words in said
    assert "Traceback" not in said
