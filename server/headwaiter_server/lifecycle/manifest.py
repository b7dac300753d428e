"""What a manifest must say for its bundle to be served: whatever this server would misread, it refuses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.encoders import HEADS, encoder_problems, quantization_problems
from headwaiter_server.lifecycle.generators import GENERATION_ROLES, generation_problems, out_of_range
from headwaiter_server.model.contract import Graph

_ONE_GRAPH_ROLES = ([bundle_pb2.GRAPH_ROLE_MODEL],)
_FP32 = "fp32"


def check_manifest(manifest: bundle_pb2.Manifest, variant: bundle_pb2.Variant) -> None:
    """Refuse a manifest that says what this server does not understand, or certifies less than it must.

    Args:
        manifest: The manifest.
        variant: The variant that is to serve.

    Raises:
        BundleError: What is wrong with it.
    """
    for problem in (*_problems(manifest, variant), *_variant_problems(manifest, variant)):
        raise BundleError(problem)


def check_names(what: str, listed: bundle_pb2.Graph, graph: Graph) -> None:
    """Refuse a graph that has other inputs or outputs than the manifest lists.

    Args:
        what: The graph, for the message.
        listed: What the manifest says of it.
        graph: The graph.

    Raises:
        BundleError: They differ.
    """
    for kind, expected, found in (
        ("inputs", listed.inputs, graph.inputs),
        ("outputs", listed.outputs, graph.outputs),
    ):
        names = [each.name for each in expected]
        if sorted(names) != sorted(found):
            raise BundleError(f"{what}: the {kind} are {', '.join(found)}, the manifest says {', '.join(names)}")


def _problems(manifest: bundle_pb2.Manifest, variant: bundle_pb2.Variant) -> Iterator[str]:
    task = manifest.task
    if task == bundle_pb2.TASK_TENSOR:
        yield from _tensor_problems(manifest, variant)
    else:
        if task != bundle_pb2.TASK_GENERATE and task not in HEADS:
            yield f"this server does not serve task {task}"
        yield from out_of_range("limits.max_source_tokens", manifest.limits.max_source_tokens)
        problems = encoder_problems if task in HEADS else generation_problems
        yield from problems(manifest, variant)
    if manifest.refuse_unknown_tokens and not manifest.special_tokens.HasField("unk_id"):
        yield "refuse_unknown_tokens is set, but special_tokens name no unk_id"
    names = [each.name for each in manifest.variants]
    if len(set(names)) != len(names):
        yield f"two variants share a name: {', '.join(names)}"


def _tensor_problems(manifest: bundle_pb2.Manifest, variant: bundle_pb2.Variant) -> Iterator[str]:
    """What only a model of texts may have; the tensors themselves are held to the graph."""
    for name in ("limits", "special_tokens", "kv_cache", "embedding"):
        if manifest.HasField(name):
            yield f"{name} is set, and a model of tensors has none"
    if manifest.labels or manifest.multi_label or manifest.refuse_unknown_tokens:
        yield "labels, multi_label or refuse_unknown_tokens is set, and a model of tensors has none"
    if manifest.graph_kind != bundle_pb2.GRAPH_KIND_PADDED:
        yield f"this server does not run graphs of tensors of kind {manifest.graph_kind}"
    for graph in variant.graphs:
        names = [each.name for each in (*graph.inputs, *graph.outputs)]
        if not graph.inputs or not graph.outputs or len(set(names)) != len(names) or not all(names):
            yield f"a graph needs inputs and outputs of distinct names, not {', '.join(names)}"


def _variant_problems(manifest: bundle_pb2.Manifest, variant: bundle_pb2.Variant) -> Iterator[str]:
    expected = GENERATION_ROLES if manifest.task == bundle_pb2.TASK_GENERATE else _ONE_GRAPH_ROLES
    roles = sorted(each.role for each in variant.graphs)
    if roles not in expected:
        wanted = " or ".join(map(_role_names, expected))
        yield f"variant {variant.name!r} lists {_role_names(roles)}, expected {wanted}"
    quantized = variant.HasField("quantization")
    if manifest.task == bundle_pb2.TASK_TENSOR:
        if quantized:
            yield f"variant {variant.name!r} is quantized, which this server does not know of models of tensors"
        if variant.HasField("parity"):  # an ONNX file that was taken as it is had no PyTorch model beside it
            yield from _parity_problems(variant)
    elif quantized:
        yield from quantization_problems(variant)
        if variant.HasField("parity"):  # otherwise it is near to fp32, and fp32 is near to PyTorch
            yield from _parity_problems(variant)
    else:
        if variant.name != _FP32:
            yield f"variant {variant.name!r} has no certificate of what it loses against fp32"
        yield from _parity_problems(variant)


def _parity_problems(variant: bundle_pb2.Variant) -> Iterator[str]:
    parity = variant.parity
    if not variant.HasField("parity") or not parity.points:
        yield f"variant {variant.name!r} has no certificate of parity with PyTorch"
    if not (math.isfinite(parity.tolerance) and parity.tolerance > 0):
        yield f"variant {variant.name!r}: its parity tolerance is {parity.tolerance}, expected a positive number"
    for point in parity.points:
        if not 0 <= point.max_abs_diff <= parity.tolerance:  # a NaN is no such number
            yield f"variant {variant.name!r} differs by {point.max_abs_diff}, its tolerance is {parity.tolerance}"
    if parity.texts_identical != parity.texts_compared:
        yield f"variant {variant.name!r}: {parity.texts_identical} of {parity.texts_compared} texts are identical"


def _role_names(roles: Sequence[int]) -> str:
    return ", ".join(bundle_pb2.GraphRole.Name(role) for role in roles) or "no graph"
