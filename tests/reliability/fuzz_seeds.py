"""Valid requests to every method, from which malformed ones are made; and the models that they ask."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from headwaiter_proto.inference import grpc_service_pb2 as oip
from headwaiter_proto.v1 import inference_pb2 as v1

# Loaded and unloaded by requests; all other models stay as they are, and so do the answers they give.
SPARE = "spare"
ENCODERS = ("embed", "classify", "tag", "rerank")
GENERATORS = ("pronounce", "gpt2", "bart")
TENSORS = ("numbers", "strings", "simple", "lookup")
MODELS = (*ENCODERS, *GENERATORS, *TENSORS, SPARE)

TEXTS = (
    "the waiter walked to the table",
    "soup",
    "Ada Lovelace wrote the first notes of the engine, and the engine was long.",
    "fire and water",
)
WORD = "waiter"

_BYTES_LENGTH = struct.Struct("<I")
_NUMPY = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "u2",
    "UINT32": "u4",
    "UINT64": "u8",
    "INT8": "i1",
    "INT16": "i2",
    "INT32": "i4",
    "INT64": "i8",
    "FP16": "f2",
    "BF16": "u2",
    "FP32": "f4",
    "FP64": "f8",
}

Tensor = tuple[str, tuple[int, ...], bytes]
Parameters = Mapping[str, bool | int | float | str]


def seeds() -> Iterator[Message]:
    """All of them."""
    yield from _texts()
    yield from _generations()
    yield from _inferences()
    yield from _questions()
    yield from _others()


def _texts() -> Iterator[Message]:
    embeds = [
        v1.EmbedRequest(model="embed", texts=TEXTS[:1]),
        v1.EmbedRequest(model="embed", texts=TEXTS, prompt="query", dimensions=8),
        v1.EmbedRequest(model="embed", texts=[TEXTS[0] * 9, "note"], truncate=True, normalize=False, version=1),
    ]
    yield from embeds
    yield from (v1.EmbedStreamRequest(id=index, request=each) for index, each in enumerate(embeds))
    yield v1.ClassifyRequest(model="classify", texts=TEXTS[:2])
    yield v1.ClassifyRequest(model="classify", texts=TEXTS[:2], second_texts=TEXTS[2:], raw_scores=True, truncate=True)
    yield v1.TagRequest(model="tag", texts=TEXTS[2:3])
    yield v1.TagRequest(model="tag", texts=TEXTS, aggregation=v1.AGGREGATION_NONE, raw_scores=True, truncate=True)
    yield v1.RerankRequest(model="rerank", query="who wrote notes", texts=TEXTS)
    yield v1.RerankRequest(model="rerank", query="soup", texts=TEXTS, top_n=2, raw_scores=True, truncate=True)
    for model in (*ENCODERS, *GENERATORS):
        yield v1.TokenizeRequest(model=model, texts=[WORD, "soup"])


def _generations() -> Iterator[Message]:
    for model in GENERATORS:
        few: dict[str, Any] = {"model": model, "texts": [WORD], "max_new_tokens": 6}
        yield v1.GenerateRequest(**few)
        yield v1.GenerateRequest(**few, temperature=0.8, seed=3, top_k=20, top_p=0.9, logprobs=2)
        yield v1.GenerateRequest(**few, repetition_penalty=1.7, stop=["a", "zq"], stop_token_ids=[3, 4])
        yield v1.GenerateRequest(**few, num_beams=3, num_return_sequences=2, length_penalty=0.6)
        yield v1.GenerateRequest(**few, attention=model != "gpt2")


def _inferences() -> Iterator[Message]:
    for model in ("embed", "classify", "tag", *GENERATORS):
        yield inference(model, {"text": strings([WORD])}, {"max_new_tokens": 5} if model in GENERATORS else {})
    yield inference("embed", {"text": strings(TEXTS)}, {"truncate": True, "prompt": "query", "dimensions": 4})
    pairs = {"text": strings(TEXTS[:2]), "text_pair": strings(TEXTS[2:])}
    yield inference("classify", pairs, {"raw_scores": True, "priority": 2, "timeout": 20_000_000})
    pairs = {"query": strings(TEXTS[:2]), "text": strings(TEXTS[2:])}
    yield inference("rerank", pairs, {"truncate": True})
    yield inference("tag", {"text": strings(TEXTS)}, {"aggregation": "none"})
    yield inference("numbers", {f"in_{each}": _numbers(each) for each in _NUMPY})
    yield inference("strings", {"in_BYTES": strings(["a", "", "é"], (3, 1))})
    simple = {name: ("INT32", (2, 16), np.arange(32, dtype="<i4").tobytes()) for name in ("INPUT0", "INPUT1")}
    yield inference("simple", simple)
    yield inference("lookup", {"indices": ("INT64", (2, 1), np.array([1, 3], "<i8").tobytes())})
    yield from _in_fields()
    yield _with_classes("simple", simple, "OUTPUT1", 3)
    yield _with_classes("classify", {"text": strings(TEXTS[:2])}, "scores", 2)
    yield _in_memory(simple)
    yield _wanting("pronounce", ("text", "token_ids", "logprobs", "finish_reason"), {"logprobs": 2, "seed": "7"})
    beams: Parameters = {"num_beams": 2, "num_return_sequences": 2, "length_penalty": "0.5"}
    yield _wanting("bart", ("text", "alternatives", "score"), beams)
    yield _wanting("gpt2", ("text",), {"stop": '["a", "b"]', "stop_token_ids": "[3]", "temperature": "0.7", "top_k": 3})


def _questions() -> Iterator[Message]:
    for model in MODELS:
        yield v1.GetModelRequest(model=model)
        yield oip.ModelMetadataRequest(name=model, version="1")
        yield oip.ModelConfigRequest(name=model)
        yield oip.ModelReadyRequest(name=model)
        yield oip.ModelStatisticsRequest(name=model)
        yield health_pb2.HealthCheckRequest(service=model)
    yield oip.ModelStatisticsRequest()
    yield oip.TraceSettingRequest(model_name="embed")
    traced = oip.TraceSettingRequest()
    traced.settings["trace_level"].value.append("OFF")
    yield traced
    yield reflection_pb2.ServerReflectionRequest(list_services="*")
    yield reflection_pb2.ServerReflectionRequest(file_containing_symbol="headwaiter.v1.InferenceService")
    yield reflection_pb2.ServerReflectionRequest(file_by_filename=oip.DESCRIPTOR.name)
    yield reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="inference.ModelInferRequest")


def _others() -> Iterator[Message]:
    yield oip.RepositoryIndexRequest(ready=True)
    load = oip.RepositoryModelLoadRequest(model_name=SPARE)
    load.parameters["config"].string_param = '{"name": "spare", "version_policy": {"latest": {"num_versions": 1}}}'
    yield load
    unload = oip.RepositoryModelUnloadRequest(model_name=SPARE)
    unload.parameters["unload_dependents"].bool_param = True
    yield unload
    yield oip.SystemSharedMemoryStatusRequest()
    yield oip.SystemSharedMemoryRegisterRequest(name="region", key="headwaiter-fuzz", offset=0, byte_size=4096)
    yield oip.SystemSharedMemoryUnregisterRequest(name="region")
    yield oip.CudaSharedMemoryRegisterRequest(name="gpu", raw_handle=b"handle", device_id=0, byte_size=64)
    logs = oip.LogSettingsRequest()
    logs.settings["log_verbose_level"].uint32_param = 0
    logs.settings["log_info"].bool_param = True
    logs.settings["log_format"].string_param = "ISO8601"
    yield logs


def inference(model: str, tensors: Mapping[str, Tensor], parameters: Parameters | None = None) -> oip.ModelInferRequest:
    """A request of raw contents.

    Args:
        model: Who is asked.
        tensors: Its inputs: datatype, shape and bytes.
        parameters: Of the request.
    """
    request = oip.ModelInferRequest(model_name=model, id="17")
    for name, (datatype, shape, data) in tensors.items():
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(data)
    for name, value in (parameters or {}).items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


def _in_fields() -> Iterator[oip.ModelInferRequest]:
    """Requests whose elements are fields."""
    request = oip.ModelInferRequest(model_name="simple")
    for name in ("INPUT0", "INPUT1"):
        request.inputs.add(name=name, datatype="INT32", shape=[1, 16]).contents.int_contents.extend(range(-8, 8))
    yield request
    request = oip.ModelInferRequest(model_name="lookup")
    request.inputs.add(name="indices", datatype="INT64", shape=[1, 3]).contents.int64_contents.extend([0, 3, 7])
    yield request
    request = oip.ModelInferRequest(model_name=SPARE)
    request.inputs.add(name="X", datatype="FP32", shape=[2, 1]).contents.fp32_contents.extend([0.5, -1.0])
    yield request
    request = oip.ModelInferRequest(model_name="strings")
    request.inputs.add(name="in_BYTES", datatype="BYTES", shape=[2, 1]).contents.bytes_contents.extend([b"a", b""])
    yield request


def _with_classes(model: str, tensors: Mapping[str, Tensor], output: str, classes: int) -> oip.ModelInferRequest:
    request = inference(model, tensors)
    request.outputs.add(name=output).parameters["classification"].int64_param = classes
    return request


def _in_memory(tensors: Mapping[str, Tensor]) -> oip.ModelInferRequest:
    """One input and one output in shared memory."""
    request = inference("simple", tensors)
    del request.raw_input_contents[0]
    parameters = request.inputs[0].parameters
    parameters["shared_memory_region"].string_param = "region"
    parameters["shared_memory_byte_size"].int64_param = 128
    parameters = request.outputs.add(name="OUTPUT0").parameters
    parameters["shared_memory_region"].string_param = "region"
    parameters["shared_memory_byte_size"].int64_param = 128
    parameters["shared_memory_offset"].int64_param = 256
    return request


def _wanting(model: str, outputs: tuple[str, ...], options: Parameters) -> oip.ModelInferRequest:
    request = inference(model, {"text": strings([WORD])}, {"max_new_tokens": 5, **options})
    for name in outputs:
        request.outputs.add(name=name)
    return request


def strings(texts: tuple[str, ...] | list[str], shape: tuple[int, ...] | None = None) -> Tensor:
    """Elements of BYTES, in rows of one if no shape is given."""
    encoded = [text.encode() for text in texts]
    data = b"".join([_BYTES_LENGTH.pack(len(each)) + each for each in encoded])
    return "BYTES", shape or (len(encoded), 1), data


def _numbers(datatype: str) -> Tensor:
    return datatype, (2, 2), np.array([0, 1, 1, 0], _NUMPY[datatype]).tobytes()
