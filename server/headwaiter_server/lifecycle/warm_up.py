"""A built model's first runs: over texts of all sizes, so that no caller is the first to try one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import BundleError, InvalidRequestError
from headwaiter_server.lifecycle.building import BuiltModel
from headwaiter_server.lifecycle.planning import Subject, TensorSubject
from headwaiter_server.model.contract import GenerationModel
from headwaiter_server.tokenizer import TextTokenizer

# Of an ordinary text; and how many of them share a run.
_TOKENS = 16
_TEXTS = 8
# Whether each answer is wanted raw: both outputs of the graph are computed.
_RAW = (False, True)
# Every vocabulary has it.
_SOME_ID = 0
_STEPS = 3
# What makes a tokenizer slow whose rules try every way to part a text: a long run of the same, and an end that does not
# fit. A sound one takes microseconds for it.
_REPEATED = ("a", "ab ", "0", " ", "\n", "é", "aA1! ")
_END = "!?"
_CHARACTERS = 2000


def warm_up(built: BuiltModel) -> None:
    """Run the smallest and the largest inputs, and read texts that are tiresome to read.

    Raises:
        BundleError: One of the runs fails.
    """
    body = built.body
    try:
        tiresome = [] if built.tokenizer is None else list(_tiresome(built.tokenizer))
        if isinstance(body, TensorSubject):
            _warm_tensors(body)
        elif isinstance(body, Subject):
            _warm_encoder(body, tiresome)
        else:
            _warm_generation(body, tiresome, built.manifest.limits.max_source_tokens)
    except Exception as error:
        # Whatever a strange graph makes numpy or onnxruntime raise.
        raise BundleError(f"{built.location.folder}: it does not run: {error}") from error


def _tiresome(tokenizer: TextTokenizer) -> Iterator[Encoding]:
    for each in _REPEATED:
        with contextlib.suppress(InvalidRequestError):  # as a vocabulary may not hold it
            yield tokenizer.encode((each * _CHARACTERS)[:_CHARACTERS] + _END, "text", truncate=True)


def _warm_tensors(subject: TensorSubject) -> None:
    if subject.runs:
        for rows in sorted({1, subject.longest_tokens}):
            subject.model.run([subject.make_text(rows)], [subject.asked.wanted])


def _warm_encoder(subject: Subject, tiresome: Sequence[Encoding]) -> None:
    for texts in [*_sizes(subject.make_text, subject.longest_tokens), *([each] for each in tiresome)]:
        for raw in _RAW:
            subject.model.run(texts, [raw] * len(texts))


def _warm_generation(model: GenerationModel, tiresome: Sequence[Encoding], longest: int) -> None:
    for texts in [*_sizes(lambda tokens: Encoding([_SOME_ID] * tokens), longest), *([each] for each in tiresome)]:
        batch = model.new_batch()
        batch.join(texts, range(len(texts)))
        tokens = np.full(len(texts), model.bos_id, np.int64)
        for _ in range(_STEPS):
            tokens = batch.step(tokens, 0, len(texts)).argmax(axis=-1)


def _sizes(make_text: Callable[[int], Encoding], longest: int) -> list[list[Encoding]]:
    """The texts of some runs, small ones first."""
    shapes = [[1], [min(_TOKENS, longest)] * _TEXTS, [longest]]
    return [[make_text(tokens) for tokens in shape] for shape in shapes]
