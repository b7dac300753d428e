"""Manifests of models that generate, as the exporter writes them; those without an encoder fit `cached_graphs`."""

from __future__ import annotations

from headwaiter_proto.v1 import bundle_pb2

from .cached_graphs import CACHE, END, PLACES, VOCAB

LAYERS, HEADS, WIDTH = CACHE.num_layers, CACHE.num_heads, CACHE.head_dim
ENCODER, DECODER = bundle_pb2.GRAPH_ROLE_ENCODER, bundle_pb2.GRAPH_ROLE_DECODER
_KEPT = CACHE.names()


def manifest(*, encoder: bool = True, quantized: bool = False) -> bundle_pb2.Manifest:
    """One that is served.

    Args:
        encoder: Whether the model has an encoder.
        quantized: Whether its variant has fewer bits.
    """
    point = bundle_pb2.ParityPoint(batch=1, length=1, steps=1, max_abs_diff=1e-5)
    it = bundle_pb2.Manifest(
        format_version=1,
        task=bundle_pb2.TASK_GENERATE,
        graph_kind=bundle_pb2.GRAPH_KIND_CACHED,
        limits=bundle_pb2.Limits(max_source_tokens=47, max_new_tokens=47, max_total_tokens=0 if encoder else PLACES),
        special_tokens=bundle_pb2.SpecialTokens(pad_id=0, bos_id=1, eos_id=END, unk_id=3, more_eos_ids=[5]),
        refuse_unknown_tokens=True,
        kv_cache=bundle_pb2.KvCache(num_layers=LAYERS, num_heads=HEADS, head_dim=WIDTH),
        variants=[
            bundle_pb2.Variant(
                name="int8" if quantized else "fp32",
                graphs=[*([_encoder()] if encoder else []), _decoder(encoder=encoder)],
                parity=bundle_pb2.ParityCertificate(
                    tolerance=1e-4, points=[point, point], texts_compared=500, texts_identical=500
                ),
            )
        ],
    )
    if quantized:
        quality = it.variants[0].quantization.points.add()
        quality.texts, quality.count = "held-out texts", 8
        quality.mean_cosine, quality.worst_cosine, quality.agreement = 0.999, 0.99, 0.9
    return it


def _encoder() -> bundle_pb2.Graph:
    return bundle_pb2.Graph(
        role=ENCODER,
        inputs=[_tensor(name, "int64", "tokens") for name in ("input_ids", "position_ids", "segment")],
        outputs=[_tensor(f"cross_{name}", "float32", "tokens", HEADS, WIDTH) for name in _KEPT],
    )


def _decoder(*, encoder: bool) -> bundle_pb2.Graph:
    kept = ("rows", HEADS, "capacity", WIDTH)
    graph = bundle_pb2.Graph(
        role=DECODER,
        inputs=[
            _tensor("input_ids", "int64", "rows", "tokens"),
            _tensor("past_lengths", "int64", "rows"),
            *(_tensor(name, "float32", *kept) for name in _KEPT),
        ],
        outputs=[
            _tensor("logits", "float32", "rows", VOCAB),
            *(_tensor(f"new_{name}", "float32", *kept) for name in _KEPT),
        ],
    )
    if encoder:
        given = ("rows", HEADS, "source", WIDTH)
        graph.inputs.add().CopyFrom(_tensor("source_lengths", "int64", "rows"))
        graph.inputs.extend(_tensor(f"cross_{name}", "float32", *given) for name in _KEPT)
        graph.outputs.add().CopyFrom(_tensor("source_weights", "float32", "rows", LAYERS, HEADS, "source"))
    return graph


def _tensor(name: str, dtype: str, *axes: int | str) -> bundle_pb2.TensorSpec:
    return bundle_pb2.TensorSpec(name=name, dtype=dtype, shape=map(str, axes))
