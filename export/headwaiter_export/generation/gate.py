"""PyTorch and onnxruntime side by side: the unmodified model's own `generate`, and the graphs with their cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from headwaiter_proto.v1 import bundle_pb2
from numpy.typing import NDArray
from transformers import GenerationConfig

from headwaiter_export.errors import TokensDifferError
from headwaiter_export.generation.graph import LOWEST
from headwaiter_export.generation.runtime import Graphs, generate
from headwaiter_export.parity import scaled_difference
from headwaiter_export.progress import Progress

PROMPTS: Final = 200
NEW_TOKENS: Final = 16
# Texts that are decoded together, tokens of a text that are read at one time: so that rows stand at different places,
# and most texts are read in several pieces.
_TOGETHER: Final = (1, 2, 7, 16)
_CHUNKS: Final = (5, 64, 3, 16)


@dataclass(frozen=True)
class Continuation:
    """What PyTorch made of a text.

    Attributes:
        tokens: The new ones, with the one that ends the text.
        logits: That they were chosen from, `(new tokens, vocab)`.
    """

    tokens: list[int]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Group:
    """Texts that are decoded together.

    Attributes:
        first: Index of the first of them.
        texts: Their tokens.
        chunk: Tokens of a text that are read at one time.
    """

    first: int
    texts: list[list[int]]
    chunk: int

    def __str__(self) -> str:
        return f"texts {self.first} to {self.first + len(self.texts) - 1}, read {self.chunk} tokens at a time"


def groups(texts: Sequence[Sequence[int]]) -> list[Group]:
    """Texts in groups of different sizes, read in pieces of different lengths."""
    found: list[Group] = []
    first = 0
    while first < len(texts):
        size, chunk = (each[len(found) % len(each)] for each in (_TOGETHER, _CHUNKS))
        found.append(Group(first, [list(text) for text in texts[first : first + size]], chunk))
        first += size
    return found


@torch.inference_mode()
def continuations(
    model: Any,  # noqa: ANN401 (one of transformers' many classes)
    texts: Sequence[Sequence[int]],
    *,
    limit: int,
    ends: frozenset[int],
    suppressed: Sequence[int],
    progress: Progress,
) -> Iterator[Continuation]:
    """What the unmodified model's `generate` makes of each text, alone and greedily.

    Whatever a checkpoint asks for besides, such as penalties and forced tokens, is left to whoever decodes.
    """
    plain = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=limit,
        do_sample=False,
        num_beams=1,
        eos_token_id=sorted(ends) or None,
        pad_token_id=min(ends, default=0),
        decoder_start_token_id=model.generation_config.decoder_start_token_id,
        suppress_tokens=list(suppressed) or None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    # Not only as an argument: what that leaves open would be taken from here.
    model.generation_config = plain
    start = 1 if model.config.is_encoder_decoder else 0
    for ids in texts:
        answer = model.generate(
            torch.tensor([list(ids)]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        )
        logits = torch.cat(answer.logits).to(torch.float32)
        logits[:, list(suppressed)] = LOWEST
        progress.advance()
        yield Continuation(answer.sequences[0, start or len(ids) :].tolist(), logits.numpy())


def compare(
    graphs: Graphs,
    wanted: Sequence[Continuation],
    group: Group,
    *,
    limit: int,
    ends: frozenset[int],
    tolerance: float,
) -> tuple[bundle_pb2.ParityPoint, list[int]]:
    """Decode a group of texts, and hold tokens and logits to PyTorch's.

    Where PyTorch's two likeliest tokens are nearer to each other than the tolerance, either is right, and the text is
    compared no further.

    Returns:
        The point of the certificate; and the indices of the texts that ended at such a tie.

    Raises:
        TokensDifferError: A token differs.
    """
    tokens, logits = generate(graphs, group.texts, limit=limit, ends=ends, chunk=group.chunk)
    worst, ties = 0.0, list[int]()
    for at, (found, expected) in enumerate(zip(zip(tokens, logits, strict=True), wanted, strict=True)):
        try:
            difference, tied = held(found, expected, tolerance)
        except ValueError as error:
            raise TokensDifferError(f"greedy decoding of text {group.first + at} of the gate: {error}") from error
        worst = float(np.maximum(worst, difference))
        if tied:
            ties.append(group.first + at)
    lengths = {len(text) for text in group.texts}
    point = bundle_pb2.ParityPoint(
        batch=len(group.texts),
        length=max(lengths),
        padded=len(lengths) > 1,
        steps=max(map(len, tokens)),
        max_abs_diff=worst,
    )
    return point, ties


def held(found: tuple[list[int], NDArray[np.float32]], wanted: Continuation, tolerance: float) -> tuple[float, bool]:
    """Hold one text's tokens and logits to PyTorch's, up to a tie.

    Returns:
        The largest difference of the logits; and whether there was a tie at which the tokens parted.

    Raises:
        ValueError: The tokens differ.
    """
    tokens, logits = found
    same = _agreeing(tokens, wanted.tokens)
    steps = min(same + 1, len(logits), len(wanted.logits))
    difference = scaled_difference(logits[:steps], wanted.logits[:steps])
    if tokens == wanted.tokens:
        return difference, False
    if same < len(wanted.tokens) and _lead(wanted.logits[same]) <= tolerance:
        return difference, True
    raise ValueError(f"the tokens differ, {tokens} on onnxruntime, {wanted.tokens} on PyTorch")


def _agreeing(found: Sequence[int], wanted: Sequence[int]) -> int:
    """How many tokens are the same before the first that differs."""
    pairs = zip(found, wanted, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(found), len(wanted)))


def _lead(logits: NDArray[np.float32]) -> float:
    """By how much the likeliest token is ahead of the next."""
    second, first = np.partition(logits, -2)[-2:]
    return float(first - second)
