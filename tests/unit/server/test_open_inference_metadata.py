"""What tools ask of models before they call them: metadata, readiness, setup."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar, cast

import pytest
from google.protobuf.message import Message
from headwaiter_proto.inference import grpc_service_pb2, model_config_pb2
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.errors import InvalidRequestError, UnknownModelError
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.lifecycle.model_config import parse_setup
from headwaiter_server.lifecycle.signature import signature_of
from headwaiter_server.metrics import Metrics
from headwaiter_server.model.contract import Signature, TensorSpec
from headwaiter_server.pipeline import Pipeline
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.edge import Method
from headwaiter_server.rpc.open_inference.config import Configs, Setup, config_of
from headwaiter_server.rpc.open_inference.metadata import Metadata, extensions
from headwaiter_server.scheduling.calls import Terms

Answer = TypeVar("Answer", bound=Message)

EMBED = bundle_pb2.Manifest(
    task=bundle_pb2.TASK_EMBED,
    architecture="bert",
    graph_kind=bundle_pb2.GRAPH_KIND_PACKED,
    limits=bundle_pb2.Limits(max_source_tokens=256),
    embedding=bundle_pb2.Embedding(
        dimension=384, normalized=True, prompts={"query": "q: ", "passage": "p: "}, default_prompt="query"
    ),
    variants=[
        bundle_pb2.Variant(name="fp32", graphs=[bundle_pb2.Graph(file=bundle_pb2.File(name="model.onnx"))]),
        bundle_pb2.Variant(name="int8", graphs=[bundle_pb2.Graph(file=bundle_pb2.File(name="model.int8.onnx"))]),
    ],
)
CLASSIFY = bundle_pb2.Manifest(
    task=bundle_pb2.TASK_CLASSIFY, limits=bundle_pb2.Limits(max_source_tokens=8), labels=["no", "jä"], multi_label=True
)
GENERATE = bundle_pb2.Manifest(
    task=bundle_pb2.TASK_GENERATE,
    limits=bundle_pb2.Limits(max_source_tokens=40, max_new_tokens=30),
    variants=[bundle_pb2.Variant(name="fp32", graphs=[bundle_pb2.Graph(), bundle_pb2.Graph()])],
)
TENSORS = Signature(
    (TensorSpec("image", "FP16", (-1, 3, 224, 224)), TensorSpec("mask", "BOOL", (-1, -1), optional=True)),
    (TensorSpec("ids", "INT64", (-1,)),),
    max_batch_size=8,
)
NO_BATCH = Signature((TensorSpec("x", "FP64", (2, -1)),), (TensorSpec("y", "BYTES", (-1,)),), 0, decoupled=True)
SETUP = Setup(
    workers=3,
    batching="auto",
    batch_delay_seconds=0.0005,
    cached=False,
    version_policy=lambda name: f"latest:{len(name)}",
)


def model(
    manifest: bundle_pb2.Manifest = EMBED,
    *,
    name: str = "m",
    version: int = 1,
    variant: str = "fp32",
    signature: Signature | None = None,
) -> ServedModel:
    return ServedModel(
        name,
        version,
        variant,
        manifest,
        cast("Any", None),
        cast("Any", None),
        signature=signature or signature_of(manifest, 100),
    )


def pipeline(*models: ServedModel) -> Pipeline:
    catalog = Catalog()
    for each in models:
        catalog.add(each)
    return Pipeline(catalog, cast("Any", None), Metrics(), 100)


def ask(method: Method, request: Message, kind: type[Answer], crossing: Crossing | None = None) -> Answer:
    """The answer of a method that asks nobody else."""

    async def answered() -> bytes:
        return await method(request.SerializeToString(), cast("Any", None), crossing or Crossing(Terms(0.0)))

    return kind.FromString(asyncio.run(answered()))


def metadata_of(*models: ServedModel, name: str = "m", version: str = "") -> grpc_service_pb2.ModelMetadataResponse:
    methods = Metadata(pipeline(*models), "1.2.3", lambda: True, []).methods()
    request = grpc_service_pb2.ModelMetadataRequest(name=name, version=version)
    return ask(methods["ModelMetadata"], request, grpc_service_pb2.ModelMetadataResponse)


def ready(name: str, version: str = "", *, server: bool = True) -> bool:
    methods = Metadata(pipeline(model(version=2)), "1.2.3", lambda: server, []).methods()
    request = grpc_service_pb2.ModelReadyRequest(name=name, version=version)
    return ask(methods["ModelReady"], request, grpc_service_pb2.ModelReadyResponse).ready


def tensors(
    listed: Iterable[grpc_service_pb2.ModelMetadataResponse.TensorMetadata],
) -> list[tuple[str, str, list[int]]]:
    return [(each.name, each.datatype, list(each.shape)) for each in listed]


def test_server_tells_its_name_version_and_extensions() -> None:
    """What it is, and no more than it offers."""
    methods = Metadata(pipeline(), "1.2.3", lambda: True, extensions(control=False, shared_memory=False)).methods()
    answer = ask(
        methods["ServerMetadata"],
        grpc_service_pb2.ServerMetadataRequest(),
        grpc_service_pb2.ServerMetadataResponse,
    )
    assert (answer.name, answer.version) == ("headwaiter", "1.2.3")
    always = ["classification", "model_configuration", "parameters", "schedule_policy", "statistics"]
    assert list(answer.extensions) == always


def test_what_is_switched_off_is_not_advertised() -> None:
    """Control of models and of the log, and shared memory, are told of only where they can be had."""
    plain = set(extensions(control=False, shared_memory=False))
    assert set(extensions(control=True, shared_memory=False)) - plain == {"model_repository", "logging"}
    assert set(extensions(control=False, shared_memory=True)) - plain == {"system_shared_memory"}


def test_model_of_texts_shows_its_tensors() -> None:
    """As the signature has them, the batch's axis first."""
    answer = metadata_of(model())
    assert (answer.name, list(answer.versions), answer.platform) == ("m", ["1"], "onnxruntime_onnx")
    assert tensors(answer.inputs) == [("text", "BYTES", [-1, 1])]
    assert tensors(answer.outputs) == [("embedding", "FP32", [-1, 384])]


def test_model_of_tensors_shows_them_as_they_are() -> None:
    """Of any type and rank."""
    answer = metadata_of(model(signature=TENSORS))
    assert tensors(answer.inputs) == [("image", "FP16", [-1, 3, 224, 224]), ("mask", "BOOL", [-1, -1])]
    assert tensors(answer.outputs) == [("ids", "INT64", [-1])]


@pytest.mark.parametrize("version", ["", "1", "3"])
def test_metadata_lists_every_version_that_serves(version: str) -> None:
    """Whichever is asked for, those that may be asked for are told; those of other models are not."""
    answer = metadata_of(model(), model(version=3), model(name="n", version=7), version=version)
    assert list(answer.versions) == ["1", "3"]


def test_version_that_is_asked_for_is_the_one_described() -> None:
    """Two versions of one model may differ in what they take; without a version the highest is described."""
    both = (model(), model(CLASSIFY, version=3))
    assert metadata_of(*both, version="1").properties["task"] == "embed"
    assert metadata_of(*both, version="3").properties["task"] == "classify"
    assert metadata_of(*both).properties["task"] == "classify"


@pytest.mark.parametrize(
    ("manifest", "properties"),
    [
        (
            EMBED,
            {
                "task": "embed",
                "variant": "fp32",
                "architecture": "bert",
                "graph_kind": "packed",
                "max_source_tokens": "256",
                "normalized": "true",
                "prompts": '["passage", "query"]',
                "default_prompt": "query",
            },
        ),
        (
            CLASSIFY,
            {
                "task": "classify",
                "variant": "fp32",
                "max_source_tokens": "8",
                "label_count": "2",
                "labels": '["no", "jä"]',
                "multi_label": "true",
            },
        ),
        (
            GENERATE,
            {
                "task": "generate",
                "variant": "fp32",
                "max_source_tokens": "40",
                "max_new_tokens": "30",
                "more_outputs": '["token_ids", "logprobs", "finish_reason", "alternatives", "score"]',
            },
        ),
    ],
    ids=["embed", "classify", "generate"],
)
def test_properties_tell_what_the_tensors_do_not(manifest: bundle_pb2.Manifest, properties: dict[str, str]) -> None:
    """Task, variant, limits, labels, prompts and outputs that are not given unasked; nothing that the model has not."""
    assert dict(metadata_of(model(manifest)).properties) == properties


def test_thousands_of_labels_are_only_counted() -> None:
    """The answer stays small; `GetModel` has them all."""
    many = bundle_pb2.Manifest(task=bundle_pb2.TASK_CLASSIFY, labels=map(str, range(101)))
    properties = metadata_of(model(many)).properties
    assert properties["label_count"] == "101"
    assert "labels" not in properties
    del many.labels[0]
    assert len(json.loads(metadata_of(model(many)).properties["labels"])) == 100


@pytest.mark.parametrize(("name", "version"), [("n", ""), ("m", "2")])
def test_unknown_model_has_no_metadata(name: str, version: str) -> None:
    """A name or version that is not there is NOT_FOUND."""
    with pytest.raises(UnknownModelError):
        metadata_of(model(), name=name, version=version)


def test_version_that_is_no_number_is_named() -> None:
    """The error says which field."""
    with pytest.raises(InvalidRequestError) as raised:
        metadata_of(model(), version="one")
    assert raised.value.field == "version"


def test_model_is_ready_when_it_is_there_and_the_server_is() -> None:
    """Asking about a model that is not there is no error."""
    assert ready("m")
    assert ready("m", "2")
    assert not ready("m", "1")
    assert not ready("n")
    assert not ready("m", server=False)


def test_questions_are_recorded_under_the_model_that_they_are_about() -> None:
    """As calls of it that ask for no inference."""
    crossing = Crossing(Terms(0.0))
    methods = Metadata(pipeline(model(version=2)), "1.2.3", lambda: True, []).methods()
    request = grpc_service_pb2.ModelReadyRequest(name="m")
    ask(methods["ModelReady"], request, grpc_service_pb2.ModelReadyResponse, crossing)
    assert (crossing.model, crossing.version, crossing.rows) == ("m", "2", 0)


def test_setup_is_what_tools_need() -> None:
    """Every name as in the metadata, sizes without the batch's axis, and true values of what the server does."""
    config = config_of(model(), SETUP)
    assert (config.name, config.platform, config.backend) == ("m", "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == 100
    (text,), (vector,) = config.input, config.output
    assert (text.name, text.data_type, list(text.dims)) == ("text", model_config_pb2.TYPE_STRING, [1])
    assert (vector.name, vector.data_type, list(vector.dims)) == ("embedding", model_config_pb2.TYPE_FP32, [384])
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert (config.dynamic_batching.priority_levels, config.dynamic_batching.default_priority_level) == (16, 4)
    assert config.dynamic_batching.default_queue_policy.allow_timeout_override
    (group,) = config.instance_group
    assert (group.count, group.kind) == (3, model_config_pb2.ModelInstanceGroup.KIND_CPU)
    assert config.version_policy.latest.num_versions == 1
    assert not config.model_transaction_policy.decoupled
    assert not config.response_cache.enable


def test_setup_of_a_model_of_tensors() -> None:
    """Types, optional inputs, and no batch where there is none."""
    config = config_of(model(signature=TENSORS), SETUP)
    shown = [(each.name, each.data_type, list(each.dims), each.optional) for each in config.input]
    assert shown == [
        ("image", model_config_pb2.TYPE_FP16, [3, 224, 224], False),
        ("mask", model_config_pb2.TYPE_BOOL, [-1], True),
    ]
    assert [(each.data_type, list(each.dims)) for each in config.output] == [(model_config_pb2.TYPE_INT64, [])]
    config = config_of(model(signature=NO_BATCH), SETUP)
    assert config.max_batch_size == 0
    assert [list(each.dims) for each in config.input] == [[2, -1]]
    assert [list(each.dims) for each in config.output] == [[-1]]
    assert config.model_transaction_policy.decoupled
    assert not config.HasField("dynamic_batching")


def test_setup_follows_the_settings() -> None:
    """Without batching there is no dynamic batching, with a cache there is a cache."""
    config = config_of(model(), Setup(1, "none", 0.0, cached=True, version_policy=lambda _: "all"))
    assert not config.HasField("dynamic_batching")
    assert config.response_cache.enable


def test_setup_of_a_model_with_a_configuration_is_what_that_says() -> None:
    """Completed by what the server knows, and corrected where less is done than it says."""
    text = b"""
        max_batch_size: 8
        default_model_filename: "net.onnx"
        input { name: "image" data_type: TYPE_FP16 dims: 3 dims: 224 dims: 224 }
        instance_group { count: 2 }
        dynamic_batching { preferred_batch_size: 4 preferred_batch_size: 8 max_queue_delay_microseconds: 700 }
        parameters { key: "intra_op_thread_count" value { string_value: "2" } }
        response_cache { enable: false }
        metric_tags { key: "a" value: "b" }
    """
    own = parse_setup(text, "m")
    setup = replace(SETUP, cached=True)
    config = config_of(replace(model(signature=TENSORS), setup=own), setup)
    assert (config.max_batch_size, config.default_model_filename) == (8, "net.onnx")
    assert [each.name for each in config.input] == ["image", "mask"]
    assert config.instance_group[0].count == 2
    assert list(config.dynamic_batching.preferred_batch_size) == [8]  # no run is larger
    assert config.dynamic_batching.max_queue_delay_microseconds == 700
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert not config.response_cache.enable
    assert not config.metric_tags  # without effect here
    assert (
        config_of(replace(model(signature=TENSORS), setup=own), replace(setup, workers=1)).instance_group[0].count == 1
    )
    unsaid = replace(model(signature=TENSORS), setup=parse_setup(b"", "m"))
    config = config_of(unsaid, setup)
    assert (config.instance_group[0].count, config.default_model_filename) == (3, "model.onnx")
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.response_cache.enable


def test_model_whose_rows_cannot_be_joined_has_no_dynamic_batching() -> None:
    """Requests of it run one by one."""
    alone = replace(TENSORS, joined=False)
    assert not config_of(model(signature=alone), SETUP).HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("latest:3", model_config_pb2.ModelVersionPolicy(latest={"num_versions": 3})),
        ("all", model_config_pb2.ModelVersionPolicy(all={})),
        ("specific:1,4", model_config_pb2.ModelVersionPolicy(specific={"versions": [1, 4]})),
    ],
)
def test_version_policy_is_told(text: str, policy: model_config_pb2.ModelVersionPolicy) -> None:
    """In the protocol's words."""
    setup = Setup(1, "auto", 0.0, cached=False, version_policy=lambda _: text)
    assert config_of(model(), setup).version_policy == policy


def test_file_of_the_variant_that_serves_is_named() -> None:
    """Where one graph serves; where there are several, none is."""
    assert config_of(model(), SETUP).default_model_filename == "model.onnx"
    assert config_of(model(variant="int8"), SETUP).default_model_filename == "model.int8.onnx"
    assert config_of(model(GENERATE), SETUP).default_model_filename == ""


def test_setup_is_asked_for_by_name_and_version() -> None:
    """As metadata is."""
    methods = Configs(pipeline(model(), model(version=2, variant="int8")), SETUP).methods()
    for version, file in (("", "model.int8.onnx"), ("1", "model.onnx")):
        request = grpc_service_pb2.ModelConfigRequest(name="m", version=version)
        answer = ask(methods["ModelConfig"], request, grpc_service_pb2.ModelConfigResponse)
        assert answer.config.default_model_filename == file
    with pytest.raises(UnknownModelError):
        ask(methods["ModelConfig"], grpc_service_pb2.ModelConfigRequest(name="n"), grpc_service_pb2.ModelConfigResponse)
