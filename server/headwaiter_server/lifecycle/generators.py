"""What the bundle of a model that generates must say, and the model that is built from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.errors import BundleError
from headwaiter_server.model.cached import CachedModel
from headwaiter_server.model.contract import BindableGraph, GraphTensor
from headwaiter_server.model.kv_cache import CacheGeometry

# Far beyond any model; a larger number is damage, and would be allocated.
_MOST = 1 << 20
_ENCODER, _DECODER = bundle_pb2.GRAPH_ROLE_ENCODER, bundle_pb2.GRAPH_ROLE_DECODER
# What a variant's graphs may be, the second for decoder-only models.
GENERATION_ROLES = ([_ENCODER, _DECODER], [_DECODER])
# As onnxruntime names them.
_TYPES = {"tensor(int64)": "int64", "tensor(float)": "float32"}


@dataclass(frozen=True)
class _Tensor:
    """An input or output; of its axes those of a fixed size are numbers."""

    name: str
    dtype: str
    axes: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} of {self.dtype} ({', '.join(map(str, self.axes))})"

    def is_like(self, other: _Tensor) -> bool:
        """Whether another is the same, whatever its axes of no fixed size are called."""
        return (self.name, self.dtype, self._sizes) == (other.name, other.dtype, other._sizes)

    @property
    def _sizes(self) -> list[int | None]:
        return [size if isinstance(size, int) else None for size in self.axes]


def generation_problems(manifest: bundle_pb2.Manifest, variant: bundle_pb2.Variant) -> Iterator[str]:
    """What the manifest of a model that generates says that this server does not understand."""
    if manifest.graph_kind != bundle_pb2.GRAPH_KIND_CACHED:
        yield f"this server does not generate with graphs of kind {manifest.graph_kind}; export the model again"
        return
    cache, roles = manifest.kv_cache, sorted(each.role for each in variant.graphs)
    for name in ("num_layers", "num_heads", "head_dim"):
        yield from out_of_range(f"kv_cache.{name}", getattr(cache, name))
    yield from out_of_range("limits.max_new_tokens", manifest.limits.max_new_tokens)
    if roles in GENERATION_ROLES:  # others are refused in any case
        yield from _total_problems(manifest.limits, has_encoder=_ENCODER in roles)
        for graph in variant.graphs:
            yield from _graph_problems(manifest, variant, graph)


def build_generator(
    manifest: bundle_pb2.Manifest,
    variant: bundle_pb2.Variant,
    graphs: Mapping[bundle_pb2.GraphRole, BindableGraph],
) -> CachedModel:
    """The model of a checked manifest, in one of its variants.

    Args:
        manifest: The manifest.
        variant: The variant.
        graphs: Its graphs, opened.

    Raises:
        BundleError: A graph has other tensors than the manifest says.
    """
    for listed in variant.graphs:
        graph = graphs[listed.role]
        expected = _expected(manifest, variant, listed)
        found = [_of_graph(each) for each in (*graph.input_tensors, *graph.output_tensors)]
        for problem in _differences(listed.role, expected, found):
            raise BundleError(problem)
    special, cache = manifest.special_tokens, manifest.kv_cache
    encoder = graphs.get(_ENCODER)
    return CachedModel(
        graphs[_DECODER],
        encoder,
        CacheGeometry(cache.num_layers, cache.num_heads, cache.head_dim),
        vocab_size=_vocabulary(variant),
        max_total_tokens=manifest.limits.max_total_tokens or manifest.limits.max_new_tokens,
        start_id=None if encoder is None else special.bos_id,
        end_ids=frozenset((special.eos_id, *special.more_eos_ids)),
        max_run_tokens=variant.quantization.max_run_tokens or None,
    )


def out_of_range(name: str, number: int) -> Iterator[str]:
    """What is wrong with a number of the manifest."""
    if not 0 < number <= _MOST:
        yield f"{name} is {number}, expected 1 to {_MOST}"


def _total_problems(limits: bundle_pb2.Limits, *, has_encoder: bool) -> Iterator[str]:
    total = limits.max_total_tokens
    if has_encoder and total:
        yield f"limits.max_total_tokens is {total}, and what is generated shares no places with a source"
    elif not has_encoder:
        yield from out_of_range("limits.max_total_tokens", total)
        if max(limits.max_source_tokens, limits.max_new_tokens) >= total:
            yield (
                f"limits.max_total_tokens is {total}, and no room for a token beside {limits.max_source_tokens} of a "
                f"text, or for {limits.max_new_tokens} new ones beside a text's first"
            )


def _graph_problems(
    manifest: bundle_pb2.Manifest, variant: bundle_pb2.Variant, graph: bundle_pb2.Graph
) -> Iterator[str]:
    found = [_of_manifest(each) for each in (*graph.inputs, *graph.outputs)]
    # Of each layer there are keys and values; a number that is too large by far is not worked out any further.
    if not manifest.kv_cache.num_layers < len(found):
        yield f"kv_cache.num_layers is {manifest.kv_cache.num_layers}, and a graph has {len(found)} inputs and outputs"
        return
    vocabulary = _vocabulary(variant)
    yield from out_of_range("the last axis of logits", vocabulary)
    yield from _differences(graph.role, _expected(manifest, variant, graph), found)
    special = manifest.special_tokens
    named = [("eos_id", special.eos_id), *(("more_eos_ids", each) for each in special.more_eos_ids)]
    if len(variant.graphs) > 1:
        named.append(("bos_id", special.bos_id))
    for name, token in named:
        if token >= vocabulary:
            yield f"special_tokens.{name} is {token}, of {vocabulary} tokens"


def _expected(manifest: bundle_pb2.Manifest, variant: bundle_pb2.Variant, graph: bundle_pb2.Graph) -> list[_Tensor]:
    """The tensors that `bundle.proto` speaks of, with the numbers of the manifest."""
    shape = manifest.kv_cache
    heads, width = shape.num_heads, shape.head_dim
    cache = CacheGeometry(shape.num_layers, heads, width)
    sources = cache.names("cross_") if len(variant.graphs) > 1 else []
    if graph.role == _ENCODER:
        return [
            *(_Tensor(name, "int64", ("tokens",)) for name in ("input_ids", "position_ids", "segment")),
            *(_Tensor(name, "float32", ("tokens", heads, width)) for name in sources),
        ]
    names = cache.names()
    tensors = [
        _Tensor("input_ids", "int64", ("rows", "tokens")),
        _Tensor("past_lengths", "int64", ("rows",)),
        *(
            _Tensor(name, "float32", ("rows", heads, "capacity", width))
            for name in (*names, *(f"new_{name}" for name in names))
        ),
        _Tensor("logits", "float32", ("rows", _vocabulary(variant))),
    ]
    if sources:
        tensors += [
            _Tensor("source_lengths", "int64", ("rows",)),
            *(_Tensor(name, "float32", ("rows", heads, "source", width)) for name in sources),
            _Tensor("source_weights", "float32", ("rows", shape.num_layers, heads, "source")),
        ]
    return tensors


def _differences(role: bundle_pb2.GraphRole, expected: Sequence[_Tensor], found: Sequence[_Tensor]) -> Iterator[str]:
    name = bundle_pb2.GraphRole.Name(role)
    wanted = {each.name: each for each in expected}
    if sorted(each.name for each in found) != sorted(wanted):
        missing = ", ".join(sorted(wanted.keys() - {each.name for each in found}))
        others = ", ".join(sorted({each.name for each in found} - wanted.keys()))
        yield f"{name}: of its inputs and outputs {missing or 'none'} are missing, and {others or 'none'} are not known"
        return
    for each in found:
        if not each.is_like(wanted[each.name]):
            yield f"{name} has {each}, expected {wanted[each.name]}"


def _vocabulary(variant: bundle_pb2.Variant) -> int:
    """Tokens that the decoder may choose from; 0 where its graph does not say."""
    for graph in variant.graphs:
        for tensor in graph.outputs:
            if graph.role == _DECODER and tensor.name == "logits" and tensor.shape:
                size = _axis(tensor.shape[-1])
                return size if isinstance(size, int) else 0
    return 0


def _of_manifest(tensor: bundle_pb2.TensorSpec) -> _Tensor:
    return _Tensor(tensor.name, tensor.dtype, tuple(map(_axis, tensor.shape)))


def _of_graph(tensor: GraphTensor) -> _Tensor:
    axes = tuple("any" if size is None else size for size in tensor.shape)
    return _Tensor(tensor.name, _TYPES.get(tensor.onnx_type, tensor.onnx_type), axes)


def _axis(text: str) -> int | str:
    # More digits than that are no size, and take long to read.
    return int(text) if text.isdecimal() and len(text) < len(str(1 << 64)) else text
