"""Golden texts of models that generate: read and gone on with again, as on the machine that exported them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import BundleError
from headwaiter_server.log import get_logger
from headwaiter_server.model.bundle import Bundle
from headwaiter_server.model.contract import Array, FloatArray
from headwaiter_server.model.generation import CHUNK_TOKENS, GenerationModel, GenerationRows

_log = get_logger(__name__)

# Texts of the golden file that are computed again at every start; the exporting machine compared hundreds.
_TEXTS: Final = 8
# The logit of a token that must not be.
_NEVER: Final = np.finfo(np.float32).min
# Another processor may sum in another order; this is far below what changes a greedy choice.
_GOLDEN_TOLERANCE: Final = 1e-3
# The same text alone and beside others, on one processor. It should be the same to the last bit, and is where matrix
# products add up in order; where they do not, this is what is borne with, and told. More of it beside an encoder.
_BATCH_TOLERANCE: Final = 1e-5
_ENCODED_BATCH_TOLERANCE: Final = 1e-4
# By how much a quantized variant may be further from fp32 here than where it was certified.
_COSINE_MARGIN: Final = 0.01
# The same of the share of tokens that it would choose: there are few here. Half of them it must in any case.
_AGREEMENT_MARGIN: Final = 0.1
_LEAST_AGREEMENT: Final = 0.5


@dataclass(frozen=True)
class _Text:
    """What was read, and how the exporting machine went on with it."""

    source: list[int]
    tokens: list[int]
    first_logits: FloatArray


def check_generation(model: GenerationModel, bundle: Bundle) -> None:
    """Go on with some of the exporting machine's texts on this one; warms the model up, too.

    Raises:
        BundleError: The graphs do not run, or do not give what they gave there, or a text's tokens depend on others.
    """
    try:
        problem = _problem(model, bundle)
    except Exception as error:
        # Whatever a strange graph or file makes numpy or onnxruntime raise: the bundle does not serve.
        raise BundleError("the graphs do not run on the golden inputs", error) from error
    if problem:
        raise BundleError(problem)


def _problem(model: GenerationModel, bundle: Bundle) -> str | None:
    texts = _texts(bundle.golden)
    together = _logits(model, texts)
    for text, found in zip(texts, together, strict=True):
        if found[0].shape != text.first_logits.shape:
            raise ValueError(f"logits of shape {found[0].shape} against {text.first_logits.shape}")
    quantized = bundle.variant.HasField("quantization")
    problem = _lost(bundle, texts, together) if quantized else _strange(texts, together)
    if problem:
        return problem
    # The last: its row is not the one that it has alone.
    (alone,) = _logits(model, texts[-1:])
    difference = _largest(alone - together[-1])
    limit = _ENCODED_BATCH_TOLERANCE if model.source_token_bytes else _BATCH_TOLERANCE
    if not difference <= limit:
        return f"how a text goes on depends on others beside it: its logits by {difference:.2g} (limit {limit})"
    if difference:
        _log.warning("rows_not_identical", difference=difference, variant=bundle.variant.name)
    return None


def _texts(golden: dict[str, Array]) -> list[_Text]:
    count = min(_TEXTS, len(golden["source_ids"]))
    if not count:
        raise ValueError("there are none")
    columns = [golden[name][:count] for name in ("source_ids", "source_lengths", "tokens", "token_counts")]
    texts = [
        _Text(source[:length].tolist(), tokens[:number].tolist(), logits)
        for source, length, tokens, number, logits in zip(*columns, golden["first_logits"], strict=False)
    ]
    if not all(text.source and text.tokens for text in texts):
        raise ValueError("one of them has no tokens")
    return texts


def _logits(model: GenerationModel, texts: Sequence[_Text]) -> list[FloatArray]:
    """The logits that each of a text's tokens is chosen from, `(tokens, vocab)`, behind those before it."""
    prompts = [text.source if model.start_id is None else [model.start_id] for text in texts]
    most = max(len(prompt) + len(text.tokens) for prompt, text in zip(prompts, texts, strict=True))
    rows = model.new_rows(len(texts), most)
    if model.start_id is not None:
        rows.encode([Encoding(text.source) for text in texts], range(len(texts)))
    found = [[read_prompt(rows, row, prompt).copy()] for row, prompt in enumerate(prompts)]
    for step in range(max(len(text.tokens) for text in texts) - 1):
        under_way = [step + 1 < len(text.tokens) for text in texts]
        tokens = [text.tokens[step] if on else 0 for text, on in zip(texts, under_way, strict=True)]
        places = [len(prompt) + step if on else 0 for prompt, on in zip(prompts, under_way, strict=True)]
        logits = rows.step(np.array(tokens, np.int64), np.array(places, np.int64), 0)
        for row, on in enumerate(under_way):
            if on:
                found[row].append(logits[row].copy())
    return [np.stack(each) for each in found]


def read_prompt(rows: GenerationRows, row: int, tokens: Sequence[int]) -> FloatArray:
    """Read what a text begins with; returns the logits of what follows, `(vocab,)`, which the next call overwrites."""
    *before, last = range(0, len(tokens), CHUNK_TOKENS)
    for start in before:
        rows.read(row, tokens[start : start + CHUNK_TOKENS], start)
    return rows.read(row, tokens[last:], last)


def _strange(texts: Sequence[_Text], found: Sequence[FloatArray]) -> str | None:
    """Where a variant of all bits differs from PyTorch."""
    difference = max(_largest(logits[0] - text.first_logits) for text, logits in zip(texts, found, strict=True))
    wrong = sum(_wrong(text, logits) for text, logits in zip(texts, found, strict=True))
    if difference <= _GOLDEN_TOLERANCE and not wrong:  # a NaN is no match
        return None
    return (
        f"this processor computes something else than the exporting one: largest difference of the first logits "
        f"{difference:.2g} (limit {_GOLDEN_TOLERANCE}), {wrong} different tokens"
    )


def _lost(bundle: Bundle, texts: Sequence[_Text], found: Sequence[FloatArray]) -> str | None:
    """By how much more a quantized variant is off fp32 than its certificate says."""
    points = bundle.variant.quantization.points
    cosine = float(np.min([_cosine(logits[0], text.first_logits) for text, logits in zip(texts, found, strict=True)]))
    worst = min(point.worst_cosine for point in points)
    tokens = sum(len(text.tokens) for text in texts)
    agreement = 1 - sum(_wrong(text, logits) for text, logits in zip(texts, found, strict=True)) / tokens
    least = max(_LEAST_AGREEMENT, min(point.agreement for point in points) - _AGREEMENT_MARGIN)
    if cosine >= worst - _COSINE_MARGIN and agreement >= least:  # a NaN is no match
        return None
    return (
        f"variant {bundle.variant.name!r} does not hold on this processor: its logits are as near to fp32 as a cosine "
        f"of {cosine:.4f}, the certificate says {worst:.4f}, and {agreement:.0%} of its tokens are the same (at least "
        f"{least:.0%}); serve another variant here"
    )


def _wrong(text: _Text, logits: FloatArray) -> int:
    """How many of a text's tokens are not the likeliest."""
    return int((logits.argmax(axis=-1) != text.tokens).sum())


def _largest(differences: FloatArray) -> float:
    """NaN if there is one among them."""
    return float(np.abs(differences).max(initial=math.nan if not differences.size else 0.0))


def _cosine(found: FloatArray, expected: Array) -> float:
    """Of two rows of logits, each less its mean, which changes no probability.

    Tokens that must not be are left out, if they are so in both: beside their logits all others would be nothing.
    """
    never = expected <= _NEVER
    if not (found[never] <= _NEVER).all():  # a NaN is not
        return math.nan
    kept = (each[~never].astype(np.float64) for each in (found, expected))
    first, second = (each - each.mean() for each in kept)
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))
