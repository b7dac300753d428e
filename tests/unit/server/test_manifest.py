"""A manifest that says what this server does not understand, or proves less than it must, is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.manifest import check_manifest, check_names
from headwaiter_server.model.contract import Array, Cancellation, FloatArray

from .cached_graphs import PLACES, VOCAB
from .generators import DECODER, ENCODER, manifest


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("encoder", [False, True])
def test_whole_manifest_is_taken(encoder: bool, quantized: bool) -> None:  # noqa: FBT001 - from pytest
    """What the exporter writes is served, with and without an encoder and an unknown token."""
    whole = manifest(encoder=encoder, quantized=quantized)
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


def tensor(it: bundle_pb2.Manifest, name: str) -> bundle_pb2.TensorSpec:
    """An input or output of the last graph."""
    graph = it.variants[0].graphs[-1]
    return next(each for each in (*graph.inputs, *graph.outputs) if each.name == name)


def set_axis(name: str, axis: int, size: str) -> Callable[[bundle_pb2.Manifest], None]:
    def alter(it: bundle_pb2.Manifest) -> None:
        tensor(it, name).shape[axis] = size

    return alter


def set_number(part: str, name: str, value: int) -> Callable[[bundle_pb2.Manifest], None]:
    return lambda it: setattr(getattr(it, part), name, value)


ALTERED: Mapping[str, tuple[Callable[[bundle_pb2.Manifest], object], str]] = {
    "task": (lambda it: it.ClearField("task"), "does not serve task 0"),
    "padded": (lambda it: setattr(it, "graph_kind", bundle_pb2.GRAPH_KIND_PADDED), "graphs of kind 1"),
    "old kind": (
        lambda it: setattr(it, "graph_kind", bundle_pb2.GRAPH_KIND_PACKED),
        "does not generate with graphs of kind 2; export the model again",
    ),
    "no kind": (lambda it: it.ClearField("graph_kind"), "graphs of kind 0"),
    "no limits": (lambda it: it.ClearField("limits"), "limits.max_source_tokens is 0"),
    "no new tokens": (set_number("limits", "max_new_tokens", 0), "limits.max_new_tokens is 0"),
    "huge source": (set_number("limits", "max_source_tokens", (1 << 20) + 1), "max_source_tokens is 1048577"),
    "huge new tokens": (set_number("limits", "max_new_tokens", 1 << 31), "max_new_tokens is 2147483648"),
    "no cache": (lambda it: it.ClearField("kv_cache"), "kv_cache.num_layers is 0"),
    "no heads": (set_number("kv_cache", "num_heads", 0), "kv_cache.num_heads is 0"),
    "no width": (set_number("kv_cache", "head_dim", 0), "kv_cache.head_dim is 0"),
    "more layers": (set_number("kv_cache", "num_layers", 3), "are missing"),
    "far more layers": (
        set_number("kv_cache", "num_layers", 1 << 20),
        "kv_cache.num_layers is 1048576, and a graph has",
    ),
    "more heads": (
        set_number("kv_cache", "num_heads", 3),
        "of float32 (tokens, 2, 16), expected cross_key_0 of float32 (to",
    ),
    "wider": (set_number("kv_cache", "head_dim", 17), "expected cross_key_0 of float32 (tokens, 2, 17)"),
    "shared places": (set_number("limits", "max_total_tokens", 95), "shares no places with a source"),
    "strange end": (set_number("special_tokens", "eos_id", VOCAB), "special_tokens.eos_id is 50, of 50 tokens"),
    "strange start": (set_number("special_tokens", "bos_id", 1 << 31), "bos_id is 2147483648, of 50 tokens"),
    "further end": (lambda it: it.special_tokens.more_eos_ids.append(99), "special_tokens.more_eos_ids is 99"),
    "any vocabulary": (set_axis("logits", 1, "vocab"), "the last axis of logits is 0, expected 1 to 1048576"),
    "huge vocabulary": (set_axis("logits", 1, "9" * 9), "the last axis of logits is 999999999"),
    "endless vocabulary": (set_axis("logits", 1, "9" * 5000), "the last axis of logits is 0"),
    "fixed rows": (
        set_axis("past_lengths", 0, "4"),
        "has past_lengths of int64 (4), expected past_lengths of int64 (r",
    ),
    "fixed capacity": (set_axis("new_key_1", 2, "64"), "has new_key_1 of float32 (rows, 2, 64, 16)"),
    "no weights": (
        lambda it: it.variants[0].graphs[1].outputs.remove(tensor(it, "source_weights")),
        "GRAPH_ROLE_DECODER: of its inputs and outputs source_weights are missing, and none are not known",
    ),
    "more outputs": (
        lambda it: it.variants[0].graphs[0].outputs.add(name="x"),
        "none are missing, and x are not known",
    ),
    "input twice": (
        lambda it: it.variants[0].graphs[0].inputs.add().CopyFrom(it.variants[0].graphs[0].inputs[0]),
        "none are missing, and none are not known",
    ),
    "half precision": (lambda it: setattr(tensor(it, "key_0"), "dtype", "float16"), "has key_0 of float16"),
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
    "quantized": (lambda it: it.variants[0].quantization.SetInParent(), "certificate of quantization names no texts"),
    "other name": (lambda it: setattr(it.variants[0], "name", "int8"), "no certificate of what it loses against fp32"),
    "other texts": (set_parity(texts_identical=499), "499 of 500 texts are identical"),
}


DECODER_ONLY: Mapping[str, tuple[Callable[[bundle_pb2.Manifest], object], str]] = {
    "no total": (set_number("limits", "max_total_tokens", 0), "limits.max_total_tokens is 0, expected 1"),
    "no room for a token": (
        set_number("limits", "max_source_tokens", PLACES),
        "no room for a token beside 64 of a text",
    ),
    "no room for a text": (set_number("limits", "max_new_tokens", PLACES), "or for 64 new ones beside a text's first"),
    "two decoders": (lambda it: it.variants[0].graphs.add(role=DECODER), "expected GRAPH_ROLE_ENCODER, GRAPH_ROLE_D"),
    "old role": (
        lambda it: setattr(it.variants[0].graphs[0], "role", bundle_pb2.GRAPH_ROLE_DECODER_STEP),
        "lists GRAPH_ROLE_DECODER_STEP, expected GRAPH_ROLE_ENCODER, GRAPH_ROLE_DECODER or GRAPH_ROLE_DECODER",
    ),
    "sources": (
        lambda it: it.variants[0].graphs[0].inputs.add(name="source_lengths"),
        "none are missing, and source_lengths are not known",
    ),
}
CASES = [*((True, *case) for case in ALTERED.values()), *((False, *case) for case in DECODER_ONLY.values())]


@pytest.mark.parametrize(("encoder", "alter", "words"), CASES, ids=[*ALTERED, *DECODER_ONLY])
def test_altered_manifest_is_refused(
    encoder: bool,  # noqa: FBT001 - from pytest
    alter: Callable[[bundle_pb2.Manifest], object],
    words: str,
) -> None:
    """Each thing that would be misread, or is not proven, is refused by name."""
    altered = manifest(encoder=encoder)
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
