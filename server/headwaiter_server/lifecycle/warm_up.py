"""A built model's first runs: over texts of all sizes, so that no caller is the first to try one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import BundleError, InvalidRequestError
from headwaiter_server.lifecycle.building import BuiltModel
from headwaiter_server.lifecycle.subject import Subject, TensorSubject
from headwaiter_server.model.generation import CHUNK_TOKENS, GenerationModel, GenerationRows
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
        raise BundleError(f"{built.location.folder}: it does not run", error) from error


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
        prompts = [text.ids if model.start_id is None else [model.start_id] for text in texts]
        rows = model.new_rows(len(texts), max(map(len, prompts)) + _STEPS)
        if model.start_id is not None:
            rows.encode(texts, range(len(texts)))
        tokens = np.array([_read_end(rows, row, prompt) for row, prompt in enumerate(prompts)])
        places = np.array([len(prompt) for prompt in prompts])
        for _ in range(min(_STEPS, rows.capacity - int(places.max()))):
            tokens, places = rows.step(tokens, places, 0).argmax(axis=-1), places + 1
    # The last place that there is.
    rows = model.new_rows(1)
    if model.start_id is not None:
        rows.encode([Encoding([_SOME_ID])], [0])
    rows.step(np.array([_SOME_ID]), np.array([rows.capacity - 1]), 0)


def _read_end(rows: GenerationRows, row: int, prompt: Sequence[int]) -> int:
    """Read the last piece of a prompt, at its place, and choose a token.

    A run over the last piece is the largest, and those before it, of which a long prompt has hundreds, are like it.
    """
    start = (len(prompt) - 1) // CHUNK_TOKENS * CHUNK_TOKENS
    return int(rows.read(row, prompt[start:], start).argmax())


def _sizes(make_text: Callable[[int], Encoding], longest: int) -> list[list[Encoding]]:
    """The texts of some runs, small ones first."""
    shapes = [[1], [min(_TOKENS, longest)] * _TEXTS, [longest]]
    return [[make_text(tokens) for tokens in shape] for shape in shapes]
