"""The Open Inference stubs speak the bytes that the protocol's own client library speaks."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf.message import Message
from headwaiter_proto.inference import grpc_service_pb2 as inference
from headwaiter_proto.inference import model_config_pb2

METHODS = {
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelStreamInfer",
    "ModelConfig", "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload",
    "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister", "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister", "TraceSetting", "LogSettings",
}  # fmt: skip


def infer_request() -> Message:
    request = inference.ModelInferRequest(
        model_name="m", model_version="2", id="7", raw_input_contents=[b"\x01\0\0\0a"]
    )
    request.parameters["priority"].uint64_param = 3
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
    tensor.parameters["shared_memory_offset"].int64_param = 5
    request.outputs.add(name="out").parameters["binary_data"].bool_param = True
    return request


def stream_response() -> Message:
    response = inference.ModelInferResponse(model_name="m", model_version="2", id="7", raw_output_contents=[b"x"])
    response.outputs.add(name="out", datatype="FP32", shape=[2]).contents.fp32_contents.append(1.5)
    return inference.ModelStreamInferResponse(error_message="e", infer_response=response)


def model_config() -> Message:
    config = model_config_pb2.ModelConfig(
        name="m", platform="onnxruntime_onnx", backend="onnxruntime", max_batch_size=8
    )
    config.input.add(name="text", data_type=model_config_pb2.TYPE_STRING, dims=[1])
    config.output.add(name="e", data_type=model_config_pb2.TYPE_FP32, dims=[-1])
    config.dynamic_batching.max_queue_delay_microseconds = 100
    config.version_policy.latest.num_versions = 1
    config.instance_group.add(name="g", count=2, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
    config.parameters["k"].string_value = "v"
    config.model_transaction_policy.decoupled = True
    config.response_cache.enable = True
    return inference.ModelConfigResponse(config=config)


def statistics() -> Message:
    response = inference.ModelStatisticsResponse()
    model = response.model_stats.add(name="m", version="1", last_inference=5, inference_count=6, execution_count=7)
    stages = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
    for number, name in enumerate(stages, 1):
        stage = getattr(model.inference_stats, name)
        stage.count, stage.ns = number, number * 10
    model.batch_stats.add(batch_size=4).compute_infer.count = 9
    model.memory_usage.add(type="CPU", id=1, byte_size=99)
    return response


def model_load() -> Message:
    request = inference.RepositoryModelLoadRequest(repository_name="r", model_name="m")
    request.parameters["file:1/model.onnx"].bytes_param = b"z"
    return request


def repository_index() -> Message:
    entry = inference.RepositoryIndexResponse.ModelIndex(name="m", version="1", state="READY", reason="r")
    return inference.RepositoryIndexResponse(models=[entry])


def shared_memory_status() -> Message:
    response = inference.SystemSharedMemoryStatusResponse()
    region = response.regions["a"]
    region.name, region.key, region.offset, region.byte_size = "a", "/k", 1, 2
    return response


def log_settings() -> Message:
    request = inference.LogSettingsRequest()
    request.settings["log_verbose_level"].uint32_param = 1
    return request


def trace_setting() -> Message:
    request = inference.TraceSettingRequest(model_name="m")
    request.settings["trace_rate"].value.append("1")
    return request


def model_metadata() -> Message:
    response = inference.ModelMetadataResponse(name="m", versions=["1"], platform="p")
    response.inputs.add(name="i", datatype="INT64", shape=[-1, 2])
    response.outputs.add(name="o", datatype="FP32", shape=[3])
    return response


@pytest.mark.parametrize(
    ("message", "recorded"),
    [
        # What the same messages are in the stubs of tritonclient 2.73.
        (
            infer_request(),
            (
                "0a016d1201321a0137220e0a087072696f72697479120228032a2d0a0474657874120542595445531a020101221a0a14736861726564"
                "5f6d656d6f72795f6f66667365741202100532180a036f757412110a0b62696e6172795f64617461120208013a050100000061"
            ),
        ),
        (
            stream_response(),
            "0a016512240a016d1201321a01372a160a036f75741204465033321a01022a0632040000c03f320178",
        ),
        (
            model_config(),
            (
                "0a6c0a016d12106f6e6e7872756e74696d655f6f6e6e781a040a02080120082a0b0a0474657874100d22010132110a0165100b1a0aff"
                "ffffffffffffffff013a070a0167100220025a02106472080a016b12030a01768a010b6f6e6e7872756e74696d659a01020801c20102"
                "0801"
            ),
        ),
        (
            statistics(),
            (
                "0a510a016d12013118052006280732300a040801100a1204080210141a040803101e2204080410282a040805103232040806103c3a04"
                "080710464204080810503a0608041a02080942090a0343505510011863"
            ),
        ),
        (model_load(), "0a017212016d1a180a1166696c653a312f6d6f64656c2e6f6e6e78120322017a"),
        (repository_index(), "0a100a016d1201311a055245414459220172"),
        (shared_memory_status(), "0a100a0161120b0a016112022f6b18012002"),
        (log_settings(), "0a170a116c6f675f766572626f73655f6c6576656c12021001"),
        (trace_setting(), "0a110a0a74726163655f7261746512030a013112016d"),
        (
            model_metadata(),
            "0a016d1201311a017022170a01691205494e5436341a0bffffffffffffffffff01022a0c0a016f1204465033321a0103",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Message) else "",
)
def test_bytes_are_those_of_other_stubs(message: Message, recorded: str) -> None:
    """Every number and type that tools use, in both directions."""
    assert message.SerializeToString(deterministic=True).hex() == recorded
    assert type(message).FromString(bytes.fromhex(recorded)) == message


def test_the_service_has_the_protocols_methods() -> None:
    """By the names that clients call, and no others; one of them streams."""
    service = inference.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.full_name == "inference.GRPCInferenceService"
    assert {method.name for method in service.methods} == METHODS
    streaming = {method.name for method in service.methods if method.client_streaming or method.server_streaming}
    assert streaming == {"ModelStreamInfer"}


def test_what_peers_say_beyond_is_kept() -> None:
    """Fields of a setup that are left out here survive being read and written."""
    with_warmup = b"\x0a\x01m\x82\x01\x03\x0a\x01w"
    assert model_config_pb2.ModelConfig.FromString(with_warmup).SerializeToString() == with_warmup


def test_clients_do_not_load_these_stubs() -> None:
    """A process of a user's may hold another copy of them, and two do not go together."""
    code = (
        "import sys, headwaiter, headwaiter.cli;"
        "sys.exit(any(name.startswith('headwaiter_proto.inference') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
