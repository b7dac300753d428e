"""A manifest that says what this server does not understand, or proves less than it must, is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.manifest import check_manifest, check_names
from headwaiter_server.model.contract import Array, Cancellation, FloatArray

ENCODER, DECODER_STEP = bundle_pb2.GRAPH_ROLE_ENCODER, bundle_pb2.GRAPH_ROLE_DECODER_STEP


def manifest() -> bundle_pb2.Manifest:
    """One that is served."""
    point = bundle_pb2.ParityPoint(batch=1, length=1, steps=1, max_abs_diff=1e-5)
    return bundle_pb2.Manifest(
        format_version=1,
        task=bundle_pb2.TASK_GENERATE,
        graph_kind=bundle_pb2.GRAPH_KIND_PACKED,
        limits=bundle_pb2.Limits(max_source_tokens=48, max_new_tokens=48),
        special_tokens=bundle_pb2.SpecialTokens(pad_id=0, bos_id=1, eos_id=2, unk_id=3),
        refuse_unknown_tokens=True,
        kv_cache=bundle_pb2.KvCache(num_layers=2, num_heads=4, head_dim=8),
        variants=[
            bundle_pb2.Variant(
                name="fp32",
                graphs=[bundle_pb2.Graph(role=ENCODER), bundle_pb2.Graph(role=DECODER_STEP)],
                parity=bundle_pb2.ParityCertificate(
                    tolerance=1e-4, points=[point, point], texts_compared=500, texts_identical=500
                ),
            )
        ],
    )


def test_whole_manifest_is_taken() -> None:
    """What the exporter writes is served, with and without an unknown token."""
    whole = manifest()
    check_manifest(whole, whole.variants[0])
    whole.refuse_unknown_tokens = False
    whole.special_tokens.ClearField("unk_id")
    check_manifest(whole, whole.variants[0])


def set_parity(**fields: float) -> Callable[[bundle_pb2.Manifest], None]:
    def alter(it: bundle_pb2.Manifest) -> None:
        for name, value in fields.items():
            setattr(it.variants[0].parity, name, value)

    return alter


def set_difference(value: float) -> Callable[[bundle_pb2.Manifest], None]:
    def alter(it: bundle_pb2.Manifest) -> None:
        it.variants[0].parity.points[1].max_abs_diff = value

    return alter


def set_number(part: str, name: str, value: int) -> Callable[[bundle_pb2.Manifest], None]:
    return lambda it: setattr(getattr(it, part), name, value)


ALTERED: Mapping[str, tuple[Callable[[bundle_pb2.Manifest], object], str]] = {
    "task": (lambda it: it.ClearField("task"), "does not serve task 0"),
    "padded": (lambda it: setattr(it, "graph_kind", bundle_pb2.GRAPH_KIND_PADDED), "graphs of kind 1"),
    "no kind": (lambda it: it.ClearField("graph_kind"), "graphs of kind 0"),
    "no limits": (lambda it: it.ClearField("limits"), "limits.max_source_tokens is 0"),
    "no new tokens": (set_number("limits", "max_new_tokens", 0), "limits.max_new_tokens is 0"),
    "huge source": (set_number("limits", "max_source_tokens", (1 << 20) + 1), "max_source_tokens is 1048577"),
    "huge new tokens": (set_number("limits", "max_new_tokens", 1 << 31), "max_new_tokens is 2147483648"),
    "no cache": (lambda it: it.ClearField("kv_cache"), "kv_cache.num_layers is 0"),
    "no heads": (set_number("kv_cache", "num_heads", 0), "kv_cache.num_heads is 0"),
    "no width": (set_number("kv_cache", "head_dim", 0), "kv_cache.head_dim is 0"),
    "same ids": (set_number("special_tokens", "eos_id", 1), "not distinct: 0, 1, 1, 3"),
    "same unknown": (set_number("special_tokens", "unk_id", 0), "not distinct: 0, 1, 2, 0"),
    "no unknown": (lambda it: it.special_tokens.ClearField("unk_id"), "name no unk_id"),
    "twins": (lambda it: it.variants.add(name="fp32"), "two variants share a name"),
    "no decoder": (lambda it: it.variants[0].graphs.pop(), "lists GRAPH_ROLE_ENCODER, expected"),
    "no graphs": (lambda it: it.variants[0].ClearField("graphs"), "lists no graph, expected"),
    "two encoders": (lambda it: it.variants[0].graphs.add(role=ENCODER), "lists GRAPH_ROLE_ENCODER, GRAPH_ROLE_ENC"),
    "unknown role": (lambda it: it.variants[0].graphs.add(), "lists GRAPH_ROLE_UNSPECIFIED, GRAPH_ROLE_ENCODER"),
    "no parity": (lambda it: it.variants[0].ClearField("parity"), "no certificate of parity"),
    "no points": (lambda it: it.variants[0].parity.ClearField("points"), "no certificate of parity"),
    "no tolerance": (set_parity(tolerance=0), "tolerance is 0.0"),
    "any tolerance": (set_parity(tolerance=math.inf), "tolerance is inf"),
    "nan tolerance": (set_parity(tolerance=math.nan), "tolerance is nan"),
    "beyond tolerance": (set_difference(1.1e-4), "differs by 0.00011"),
    "nan difference": (set_difference(math.nan), "differs by nan"),
    "negative difference": (set_difference(-1.0), "differs by -1.0"),
    "quantized": (lambda it: it.variants[0].quantization.SetInParent(), "is quantized, which this server does not"),
    "other texts": (set_parity(texts_identical=499), "499 of 500 texts are identical"),
}


@pytest.mark.parametrize(("alter", "words"), ALTERED.values(), ids=ALTERED)
def test_altered_manifest_is_refused(alter: Callable[[bundle_pb2.Manifest], object], words: str) -> None:
    """Each thing that would be misread, or is not proven, is refused by name."""
    altered = manifest()
    alter(altered)
    with pytest.raises(BundleError) as caught:
        check_manifest(altered, altered.variants[0])
    assert words in str(caught.value)


class NamedGraph:
    """A graph that has names only."""

    def __init__(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.inputs, self.outputs = list(inputs), list(outputs)

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, Array], cancellation: Cancellation | None = None
    ) -> list[FloatArray]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        (["ids", "lengths"], ["logits"], ""),
        (["lengths", "ids"], ["logits"], ""),
        (["ids"], ["logits"], "the inputs are ids, the manifest says ids, lengths"),
        (["ids", "lengths", "more"], ["logits"], "the inputs are ids, lengths, more"),
        (["ids", "lengths"], ["scores"], "the outputs are scores, the manifest says logits"),
    ],
)
def test_graph_has_the_names_that_the_manifest_lists(inputs: list[str], outputs: list[str], words: str) -> None:
    """A graph with other inputs or outputs than the manifest lists is refused with both."""
    listed = bundle_pb2.Graph(
        inputs=[bundle_pb2.TensorSpec(name="ids"), bundle_pb2.TensorSpec(name="lengths")],
        outputs=[bundle_pb2.TensorSpec(name="logits")],
    )
    if not words:
        check_names("encoder", listed, NamedGraph(inputs, outputs))
        return
    with pytest.raises(BundleError, match=r"^encoder: ") as caught:
        check_names("encoder", listed, NamedGraph(inputs, outputs))
    assert words in str(caught.value)
