"""Golden outputs of encoders: what the exporting machine computed, computed again on this one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.encoders import HEADS, QUANTIZED_BATCH_TOLERANCE
from headwaiter_server.model.bundle import Bundle
from headwaiter_server.model.contract import Array, EncoderModel, FloatArray
from headwaiter_server.tokenizer import TextTokenizer

# Rows of the golden file that are computed again at every start; the exporting machine compared hundreds.
_GOLDEN_ROWS = 8
# Another processor may sum in another order; this is far below what changes a greedy choice.
_GOLDEN_TOLERANCE = 1e-3
# The same text alone and beside others, on one processor.
_BATCH_TOLERANCE = 1e-5
# By how much a quantized variant may be further from fp32 here than where it was certified.
_COSINE_MARGIN = 0.01


def check_encoder(model: EncoderModel, tokenizer: TextTokenizer, bundle: Bundle) -> None:
    """Answer some of the exporting machine's texts on this one, alone and together; warms the model up, too.

    Raises:
        BundleError: The tokenizer or the graph gives something else than there, the graph does not run, or a text's
            answer depends on its batch-mates.
    """
    try:
        problem = _encoder_problem(model, tokenizer, bundle)
    except Exception as error:
        # Whatever a strange graph, file or tokenizer makes a library raise: the bundle does not serve.
        raise BundleError("the model does not run on the golden inputs", error) from error
    if problem:
        raise BundleError(problem)


def _encoder_problem(model: EncoderModel, tokenizer: TextTokenizer, bundle: Bundle) -> str | None:
    golden = bundle.golden
    sources = _golden_sources(golden)
    for index, (text, source) in enumerate(zip(golden["texts"].tolist(), sources, strict=False)):
        if text and tokenizer.encode(text, f"golden text {index}").ids != source.ids:
            return f"the tokenizer does not give the tokens of golden text {index}"
    head = HEADS[bundle.manifest.task]
    expected = {
        name: [
            values[: len(source)] if head.per_token else values
            for values, source in zip(golden[name], sources, strict=False)
        ]
        for name in (head.raw, head.finished)
    }
    together = model.run(sources, [False] * len(sources))
    alone = [model.run([source], [False])[0] for source in sources]
    quantized = bundle.variant.HasField("quantization")
    if quantized:
        worst = min(point.worst_cosine for point in bundle.variant.quantization.points)
        cosine = _worst_cosine(together, expected[head.finished])
        if not cosine >= worst - _COSINE_MARGIN:  # not >=: a NaN is no match
            return (
                f"variant {bundle.variant.name!r} does not hold on this processor: its answers are as near to fp32 as "
                f"a cosine of {cosine:.4f}, the certificate says {worst:.4f}; serve another variant here"
            )
    else:
        raw = model.run(sources, [True] * len(sources))
        found = [*together, *raw]
        difference = _difference(found, [*expected[head.finished], *expected[head.raw]])
        if not difference <= _GOLDEN_TOLERANCE:
            return (
                f"this processor computes something else than the exporting one: largest difference {difference:.2g} "
                f"(limit {_GOLDEN_TOLERANCE})"
            )
    difference = _difference(alone, together)
    limit = QUANTIZED_BATCH_TOLERANCE if quantized else _BATCH_TOLERANCE
    if not difference <= limit:
        return f"the answer to a text depends on its batch-mates: by {difference:.2g} (limit {limit})"
    return None


def _golden_sources(golden: dict[str, Array]) -> list[Encoding]:
    lengths = golden["lengths"][:_GOLDEN_ROWS].tolist()
    if not lengths:
        raise ValueError("there are none")
    types = golden.get("token_type_ids", itertools.repeat(None))
    return [
        Encoding(ids[:length].tolist(), None if row is None else row[:length].tolist())
        for ids, row, length in zip(golden["input_ids"], types, lengths, strict=False)
    ]


def _difference(found: Sequence[FloatArray], expected: Sequence[Array]) -> float:
    """The largest difference, absolute up to 1 and relative beyond; NaN if there is one among the numbers."""
    return float(np.max([_largest(one, other) for one, other in zip(found, expected, strict=True)]))


def _largest(found: FloatArray, expected: Array) -> float:
    if found.shape != expected.shape:
        raise ValueError(f"an answer of shape {found.shape} against {expected.shape}")
    return float(np.max(np.abs(found - expected) / np.maximum(1.0, np.abs(expected)), initial=0.0))


def _worst_cosine(found: Sequence[FloatArray], expected: Sequence[Array]) -> float:
    """The smallest cosine of an answer to the expected one; single scores count together as one answer."""
    if all(each.ndim == 0 for each in found):
        found, expected = [np.array(found)], [np.array(expected)]
    cosines = []
    for one, other in zip(found, expected, strict=True):
        first, second = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
        cosines.append(float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second))))
    return float(np.min(cosines))
