"""`ModelConfig`: how a model is set up, in the protocol's words and with true values only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from headwaiter_proto.inference import grpc_service_pb2, model_config_pb2

from headwaiter_server.config import Batching
from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.lifecycle.model_config import THREADS, ModelSetup
from headwaiter_server.model.contract import Signature, TensorSpec
from headwaiter_server.model.datatypes import BY_NAME
from headwaiter_server.pipeline import Pipeline
from headwaiter_server.rpc.crossing import MAX_PRIORITY, Crossing
from headwaiter_server.rpc.edge import Method
from headwaiter_server.rpc.messages import parse
from headwaiter_server.rpc.open_inference.metadata import BACKEND, PLATFORM
from headwaiter_server.rpc.open_inference.parameters import read_version
from headwaiter_server.scheduling.admission import Permit
from headwaiter_server.scheduling.calls import DEFAULT_PRIORITY

_Policy = model_config_pb2.ModelVersionPolicy


@dataclass(frozen=True, slots=True)
class Setup:
    """What the server's settings say of every model.

    Attributes:
        workers: Runs at one time, shared by all models.
        batching: How texts become runs.
        batch_delay_seconds: Longest wait for batch-mates.
        cached: Whether answers are remembered.
        version_policy: By the name of a model, which of its versions serve: `latest:2`, `all` or `specific:1,3`.
    """

    workers: int
    batching: Batching
    batch_delay_seconds: float
    cached: bool
    version_policy: Callable[[str], str]


class Configs:
    """Tells how models are set up."""

    def __init__(self, pipeline: Pipeline, setup: Setup) -> None:
        self._pipeline = pipeline
        self._setup = setup

    def methods(self) -> dict[str, Method]:
        """Its methods by name."""
        return {"ModelConfig": self.model_config}

    async def model_config(self, data: bytes, _permit: Permit, crossing: Crossing) -> bytes:
        """Tell how one model is set up."""
        message = parse(grpc_service_pb2.ModelConfigRequest, data)
        model = self._pipeline.find(message.name, read_version(message.version, "version"))
        crossing.recognize(model)
        return grpc_service_pb2.ModelConfigResponse(config=config_of(model, self._setup)).SerializeToString()


def config_of(model: ServedModel, setup: Setup) -> model_config_pb2.ModelConfig:
    """How a model is set up; where it has a configuration of its own, as far as that says so."""
    signature = model.signature
    config = model_config_pb2.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=signature.max_batch_size,
        input=[
            model_config_pb2.ModelInput(
                name=each.name,
                data_type=BY_NAME[each.datatype].config,
                dims=_dims(each, signature),
                optional=each.optional,
            )
            for each in signature.inputs
        ],
        output=[
            model_config_pb2.ModelOutput(
                name=each.name, data_type=BY_NAME[each.datatype].config, dims=_dims(each, signature)
            )
            for each in signature.outputs
        ],
        instance_group=[
            model_config_pb2.ModelInstanceGroup(
                name=f"{model.name}_0", count=setup.workers, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU
            )
        ],
        version_policy=_policy(setup.version_policy(model.name)),
        model_transaction_policy=model_config_pb2.ModelTransactionPolicy(decoupled=signature.decoupled),
        response_cache=model_config_pb2.ModelResponseCache(enable=setup.cached),
    )
    if setup.batching != "none" and signature.max_batch_size and signature.joined:
        config.dynamic_batching.CopyFrom(
            model_config_pb2.ModelDynamicBatching(
                max_queue_delay_microseconds=round(setup.batch_delay_seconds * 1e6),
                priority_levels=MAX_PRIORITY,
                default_priority_level=DEFAULT_PRIORITY,
                default_queue_policy=model_config_pb2.ModelQueuePolicy(allow_timeout_override=True),
            )
        )
    if (file := _only_file(model)) is not None:
        config.default_model_filename = file
    if model.setup is not None:
        _follow(config, model.setup)
    return config


def _follow(config: model_config_pb2.ModelConfig, setup: ModelSetup) -> None:
    """What a configuration of the model's own says, where it says it."""
    if setup.most_runs is not None:
        config.instance_group[0].count = min(setup.most_runs, config.instance_group[0].count)
    if setup.delay_seconds is not None and config.HasField("dynamic_batching"):
        config.dynamic_batching.max_queue_delay_microseconds = round(setup.delay_seconds * 1e6)
    if setup.preferred_rows is not None and config.HasField("dynamic_batching"):
        config.dynamic_batching.preferred_batch_size.append(setup.preferred_rows)
    if setup.threads is not None:
        config.parameters[THREADS].string_value = str(setup.threads)
    if setup.cached is False:
        config.response_cache.enable = False


def _dims(spec: TensorSpec, signature: Signature) -> Iterable[int]:
    """Sizes without the batch's axis."""
    return spec.shape[1:] if signature.max_batch_size else spec.shape


def _policy(text: str) -> model_config_pb2.ModelVersionPolicy:
    kind, _, numbers = text.partition(":")
    if kind == "all":
        return _Policy(all=_Policy.All())
    if kind == "specific":
        return _Policy(specific=_Policy.Specific(versions=map(int, numbers.split(","))))
    return _Policy(latest=_Policy.Latest(num_versions=int(numbers)))


def _only_file(model: ServedModel) -> str | None:
    """The file of the graph that serves, if it is one."""
    if model.setup is not None:
        return model.setup.model_file
    graphs = [graph for variant in model.manifest.variants if variant.name == model.variant for graph in variant.graphs]
    return graphs[0].file.name if len(graphs) == 1 else None
