"""The manifest of an encoder model: each thing that this server would misread, or that is not proven, is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.manifest import check_manifest

PACKED, PADDED = bundle_pb2.GRAPH_KIND_PACKED, bundle_pb2.GRAPH_KIND_PADDED
INPUTS = {
    PACKED: {
        "input_ids": ["tokens"],
        "position_ids": ["tokens"],
        "segment": ["tokens"],
        "text_starts": ["texts"],
        "token_type_ids": ["tokens"],
    },
    PADDED: {
        "input_ids": ["texts", "length"],
        "attention_mask": ["texts", "length"],
        "token_type_ids": ["texts", "length"],
    },
}


def outputs(task: bundle_pb2.Task, kind: bundle_pb2.GraphKind) -> dict[str, list[str]]:
    names = ("embedding", "unit_embedding") if task == bundle_pb2.TASK_EMBED else ("scores", "probabilities")
    rows = ["texts"] if task != bundle_pb2.TASK_TAG else INPUTS[kind]["input_ids"]
    width = {bundle_pb2.TASK_EMBED: ["8"], bundle_pb2.TASK_RERANK: []}.get(task, ["3"])
    return {name: [*rows, *width] for name in names}


def specs(tensors: Mapping[str, list[str]], dtype: str) -> list[bundle_pb2.TensorSpec]:
    return [bundle_pb2.TensorSpec(name=name, dtype=dtype, shape=shape) for name, shape in tensors.items()]


def manifest(
    task: bundle_pb2.Task = bundle_pb2.TASK_EMBED, kind: bundle_pb2.GraphKind = PACKED, *, quantized: bool = False
) -> bundle_pb2.Manifest:
    """One that is served."""
    variant = bundle_pb2.Variant(
        name="int8" if quantized else "fp32",
        graphs=[
            bundle_pb2.Graph(
                role=bundle_pb2.GRAPH_ROLE_MODEL,
                inputs=specs(INPUTS[kind], "int64"),
                outputs=specs(outputs(task, kind), "float32"),
            )
        ],
    )
    if quantized:
        point = bundle_pb2.QualityPoint(
            texts="held-out texts", count=9, mean_cosine=0.999, worst_cosine=0.99, agreement=0.9, max_batch_diff=1e-7
        )
        variant.quantization.CopyFrom(bundle_pb2.QuantizationCertificate(scheme="x", points=[point], speedup=2))
    else:
        parity = bundle_pb2.ParityPoint(batch=1, length=1, max_abs_diff=1e-7)
        variant.parity.CopyFrom(bundle_pb2.ParityCertificate(tolerance=1e-5, points=[parity]))
    embed = task == bundle_pb2.TASK_EMBED
    return bundle_pb2.Manifest(
        format_version=1,
        task=task,
        graph_kind=kind,
        limits=bundle_pb2.Limits(max_source_tokens=48),
        special_tokens=bundle_pb2.SpecialTokens(pad_id=0, unk_id=100),
        labels=["a", "b", "c"] if task in {bundle_pb2.TASK_CLASSIFY, bundle_pb2.TASK_TAG} else [],
        embedding=bundle_pb2.Embedding(dimension=8, normalized=True) if embed else None,
        variants=[variant],
    )


@pytest.mark.parametrize(
    "task", [bundle_pb2.TASK_EMBED, bundle_pb2.TASK_CLASSIFY, bundle_pb2.TASK_TAG, bundle_pb2.TASK_RERANK]
)
@pytest.mark.parametrize("kind", [PACKED, PADDED])
@pytest.mark.parametrize("quantized", [False, True])
def test_whole_manifest_is_taken(task: bundle_pb2.Task, kind: bundle_pb2.GraphKind, *, quantized: bool) -> None:
    """What the exporter writes is served, for every task and kind of graph, with token types and without."""
    whole = manifest(task, kind, quantized=quantized)
    check_manifest(whole, whole.variants[0])
    whole.variants[0].graphs[0].inputs.pop()
    check_manifest(whole, whole.variants[0])


def graph(it: bundle_pb2.Manifest) -> bundle_pb2.Graph:
    return it.variants[0].graphs[0]


Alter = Callable[[bundle_pb2.Manifest], object]
EMBED: Mapping[str, tuple[Alter, str]] = {
    "tensor": (
        lambda it: setattr(it, "task", bundle_pb2.TASK_TENSOR),
        "limits is set, and a model of tensors has none",
    ),
    "cache": (lambda it: it.kv_cache.SetInParent(), "kv_cache is set"),
    "no embedding": (lambda it: it.ClearField("embedding"), "embedding is not set for a model of TASK_EMBED"),
    "no kind": (lambda it: it.ClearField("graph_kind"), "graphs of kind 0"),
    "no limit": (lambda it: it.ClearField("limits"), "limits.max_source_tokens is 0"),
    "no graph": (lambda it: it.variants[0].ClearField("graphs"), "lists no graph, expected GRAPH_ROLE_MODEL"),
    "other role": (lambda it: setattr(graph(it), "role", 1), "lists GRAPH_ROLE_ENCODER, expected GRAPH_ROLE_MODEL"),
    "two graphs": (lambda it: it.variants[0].graphs.add().CopyFrom(graph(it)), "lists GRAPH_ROLE_MODEL, GRAPH_ROLE"),
    "input missing": (lambda it: graph(it).inputs.pop(0), "the inputs are position_ids, segment, text_starts, token"),
    "input more": (
        lambda it: graph(it).inputs.add(name="x"),
        "the inputs are input_ids, position_ids, segment, text_s",
    ),
    "input twice": (lambda it: graph(it).inputs.add().CopyFrom(graph(it).inputs[0]), "the inputs are input_ids, po"),
    "input type": (
        lambda it: setattr(graph(it).inputs[1], "dtype", "int32"),
        "position_ids is of int32, expected int64",
    ),
    "no type": (lambda it: graph(it).inputs[2].ClearField("dtype"), "segment is of no type, expected int64"),
    "input axes": (lambda it: graph(it).inputs[0].shape.append("x"), "input_ids has 2 axes, expected 1"),
    "kind of inputs": (lambda it: setattr(it, "graph_kind", PADDED), "expected input_ids, attention_mask and perhaps"),
    "output missing": (lambda it: graph(it).outputs.pop(), "the outputs are embedding, expected embedding, unit_embed"),
    "output more": (lambda it: graph(it).outputs.add(name="x"), "the outputs are embedding, unit_embedding, x"),
    "output type": (lambda it: setattr(graph(it).outputs[0], "dtype", "float16"), "embedding is of float16"),
    "output axes": (lambda it: graph(it).outputs[0].shape.pop(), "embedding has 1 axes, expected 2"),
    "width": (lambda it: setattr(it.embedding, "dimension", 9), "embedding has 8 columns, the manifest speaks of 9"),
    "no parity": (lambda it: it.variants[0].ClearField("parity"), "no certificate of parity"),
    "beyond": (lambda it: setattr(it.variants[0].parity.points[0], "max_abs_diff", 1.0), "differs by 1.0"),
    "uncertified": (lambda it: setattr(it.variants[0], "name", "int8"), "no certificate of what it loses against fp32"),
    "twins": (lambda it: it.variants.add(name="fp32"), "two variants share a name"),
}
CLASSIFY: Mapping[str, tuple[Alter, str]] = {
    "no labels": (lambda it: it.ClearField("labels"), "a model of TASK_CLASSIFY needs labels"),
    "more labels": (lambda it: it.labels.append("d"), "scores has 3 columns, the manifest speaks of 4"),
    "embedding": (lambda it: it.embedding.SetInParent(), "embedding is set for a model of TASK_CLASSIFY"),
    "generate": (lambda it: setattr(it, "task", bundle_pb2.TASK_GENERATE), "does not generate with graphs of k"),
}


def set_quality(**fields: float) -> Alter:
    def alter(it: bundle_pb2.Manifest) -> None:
        for name, value in fields.items():
            setattr(it.variants[0].quantization.points[0], name, value)

    return alter


QUANTIZED: Mapping[str, tuple[Alter, str]] = {
    "no points": (lambda it: it.variants[0].quantization.ClearField("points"), "names no texts"),
    "nan": (set_quality(worst_cosine=math.nan), "cosines of nan at worst"),
    "upside down": (set_quality(worst_cosine=0.9995), "cosines of 0.9995 at worst and 0.999 on average"),
    "too good": (set_quality(mean_cosine=1.5), "and 1.5 on average"),
    "mates": (set_quality(max_batch_diff=2e-4), "depend on their batch-mates by 0.0002, the limit is 0.0001"),
    "nan mates": (set_quality(max_batch_diff=math.nan), "depend on their batch-mates by nan"),
}


@pytest.mark.parametrize(
    ("it", "alter", "words"),
    [
        *((manifest(), *each) for each in EMBED.values()),
        *((manifest(bundle_pb2.TASK_CLASSIFY), *each) for each in CLASSIFY.values()),
        *((manifest(quantized=True), *each) for each in QUANTIZED.values()),
    ],
    ids=[*EMBED, *CLASSIFY, *QUANTIZED],
)
def test_altered_manifest_is_refused(it: bundle_pb2.Manifest, alter: Alter, words: str) -> None:
    """Each thing that would be misread, or is not proven, is refused by name."""
    altered = bundle_pb2.Manifest.FromString(it.SerializeToString())
    alter(altered)
    with pytest.raises(BundleError) as caught:
        check_manifest(altered, altered.variants[0])
    assert words in str(caught.value)


def test_scores_by_text_do_not_pass_for_scores_by_token() -> None:
    """A tagger's graph must have a row for each token: one for each text would be read wrongly."""
    altered = manifest(bundle_pb2.TASK_CLASSIFY, PADDED)
    altered.task = bundle_pb2.TASK_TAG
    with pytest.raises(BundleError, match="scores has 2 axes, expected 3"):
        check_manifest(altered, altered.variants[0])
