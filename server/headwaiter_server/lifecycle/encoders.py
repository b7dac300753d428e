"""What the bundle of an encoder model must say, and the model that is built from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.model.contract import EncoderModel, Graph
from headwaiter_server.model.encoder import Head, PackedEncoder, PaddedEncoder

# The two outputs of each task's graphs, as `bundle.proto` has them.
HEADS: Mapping[int, Head] = {
    bundle_pb2.TASK_EMBED: Head("embedding", "unit_embedding"),
    bundle_pb2.TASK_CLASSIFY: Head("scores", "probabilities"),
    bundle_pb2.TASK_TAG: Head("scores", "probabilities", per_token=True),
    bundle_pb2.TASK_RERANK: Head("scores", "probabilities"),
}
# A quantized variant's answer to a text may depend on its batch-mates by as much.
QUANTIZED_BATCH_TOLERANCE = 1e-4

_LABELLED = {bundle_pb2.TASK_CLASSIFY, bundle_pb2.TASK_TAG}
# Inputs of each kind of graph, with their axes; those that a model may do without last.
_INPUTS: Mapping[int, Mapping[str, int]] = {
    bundle_pb2.GRAPH_KIND_PACKED: {"input_ids": 1, "position_ids": 1, "segment": 1, "text_starts": 1},
    bundle_pb2.GRAPH_KIND_PADDED: {"input_ids": 2, "attention_mask": 2},
}
_OPTIONAL_INPUT = "token_type_ids"


def build_encoder(manifest: bundle_pb2.Manifest, variant: bundle_pb2.Variant, graph: Graph) -> EncoderModel:
    """The model that runs a graph of a checked manifest, in one of its variants."""
    head = HEADS[manifest.task]
    if manifest.graph_kind == bundle_pb2.GRAPH_KIND_PACKED:
        return PackedEncoder(graph, head, variant.quantization.max_run_tokens or None)
    return PaddedEncoder(graph, head, manifest.special_tokens.pad_id)


def encoder_problems(manifest: bundle_pb2.Manifest, variant: bundle_pb2.Variant) -> Iterator[str]:
    """What an encoder's manifest says that this server does not understand."""
    task = bundle_pb2.Task.Name(manifest.task)
    if manifest.HasField("kv_cache"):
        yield f"kv_cache is set, and a model of {task} has none"
    if manifest.HasField("embedding") != (manifest.task == bundle_pb2.TASK_EMBED):
        yield f"embedding is {'set' if manifest.HasField('embedding') else 'not set'} for a model of {task}"
    if manifest.task in _LABELLED and not manifest.labels:
        yield f"a model of {task} needs labels"
    if manifest.graph_kind not in _INPUTS:
        yield f"this server does not run graphs of kind {manifest.graph_kind}"
        return
    for graph in variant.graphs:
        yield from _graph_problems(manifest, graph)


def quantization_problems(variant: bundle_pb2.Variant) -> Iterator[str]:
    """What is wrong with the certificate of a variant of fewer bits."""
    points = variant.quantization.points
    if not points:
        yield f"variant {variant.name!r}: its certificate of quantization names no texts"
    for point in points:
        if not -1 <= point.worst_cosine <= point.mean_cosine <= 1 + 1e-6:  # a NaN is no such number
            yield (
                f"variant {variant.name!r}: cosines of {point.worst_cosine} at worst and {point.mean_cosine} on average"
            )
        if not 0 <= point.max_batch_diff <= QUANTIZED_BATCH_TOLERANCE:
            yield (
                f"variant {variant.name!r}: its answers depend on their batch-mates by {point.max_batch_diff}, "
                f"the limit is {QUANTIZED_BATCH_TOLERANCE}"
            )


def _graph_problems(manifest: bundle_pb2.Manifest, graph: bundle_pb2.Graph) -> Iterator[str]:
    inputs = _INPUTS[manifest.graph_kind]
    axes = {**inputs, _OPTIONAL_INPUT: inputs["input_ids"]}
    found = [each.name for each in graph.inputs]
    if sorted({*found, _OPTIONAL_INPUT}) != sorted(axes) or len(set(found)) != len(found):
        yield f"the inputs are {', '.join(found)}, expected {', '.join(inputs)} and perhaps {_OPTIONAL_INPUT}"
        return
    for tensor in graph.inputs:
        yield from _tensor_problems(tensor, "int64", axes[tensor.name])
    head = HEADS[manifest.task]
    found = [each.name for each in graph.outputs]
    if sorted(found) != sorted((head.raw, head.finished)):
        yield f"the outputs are {', '.join(found)}, expected {head.raw}, {head.finished}"
        return
    width = _width(manifest)
    by_token = inputs["input_ids"] if head.per_token else 1
    for tensor in graph.outputs:
        yield from _tensor_problems(tensor, "float32", by_token + (width is not None))
        last = tensor.shape[-1] if tensor.shape else ""
        if width is not None and last.isdecimal() and int(last) != width:
            yield f"{tensor.name} has {last} columns, the manifest speaks of {width}"


def _width(manifest: bundle_pb2.Manifest) -> int | None:
    """Numbers of one answer; None where it is a single score."""
    if manifest.task == bundle_pb2.TASK_RERANK:
        return None
    return manifest.embedding.dimension if manifest.task == bundle_pb2.TASK_EMBED else len(manifest.labels)


def _tensor_problems(tensor: bundle_pb2.TensorSpec, dtype: str, axes: int) -> Iterator[str]:
    if tensor.dtype != dtype:
        yield f"{tensor.name} is of {tensor.dtype or 'no type'}, expected {dtype}"
    if len(tensor.shape) != axes:
        yield f"{tensor.name} has {len(tensor.shape)} axes, expected {axes}"
