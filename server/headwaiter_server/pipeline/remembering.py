"""What makes two questions to a model the same, and what is kept of an answer.

A question is known by a digest of all that its answer depends on, each part with its length or shape before it. Two
that differ have different digests, whoever chose them: BLAKE2b of 256 bits (RFC 7693).
"""

from __future__ import annotations

import itertools
import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from hashlib import blake2b
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from headwaiter_server.batching.task import EncodingTask, RunAnswer, TensorTask
from headwaiter_server.encoding import Encoding
from headwaiter_server.generation.sequence import Generated, GenerationTask
from headwaiter_server.model.contract import Array, FloatArray
from headwaiter_server.model.tensors import Tensors

_hash = partial(blake2b, digest_size=32)
_READING = struct.Struct("<qqq")
_LENGTH = struct.Struct("<q")
_NO_TYPES = -1
# What Python takes beside the contents: for an answer with its digest and its place, an array, a token's number, a
# string.
_ANSWER_BYTES = 416
_ARRAY_BYTES = 144
_NUMBER_BYTES = 40
_STRING_BYTES = 48
# For a token with its log-probability, and for each of the likeliest at its place.
TOKEN_BYTES = 160
LIKELY_BYTES = 112
# So many bytes of tensors are hashed in the time in which a character is tokenized.
_BYTES_FOR_A_CHARACTER = 64


class Measured(Protocol):
    """What came of one text, as far as its timings go; a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def queue_seconds(self) -> float:
        """From submission to its first run."""
        ...

    @property
    def inference_seconds(self) -> float:
        """From the start of its first run to the end of its last."""
        ...

    @property
    def batch_size(self) -> int:
        """Most rows of any of its runs."""
        ...

    @property
    def batch_tokens(self) -> int:
        """Most tokens of any of its runs."""
        ...

    @property
    def batch_id(self) -> int:
        """Number of its first run; 0 of an answer that was remembered."""
        ...


Task = TypeVar("Task")
Result = TypeVar("Result", bound=Measured)


@dataclass(frozen=True)
class Kind(Generic[Task, Result]):
    """How questions of one kind are told apart, and how answers to them are kept.

    Attributes:
        digest: What a question is known by.
        rows: How many rows it asks for.
        characters: Of how much text the tokenizer would take as long as the digest does.
        sealed: An answer that nobody can alter, and the bytes that it takes.
        given: A sealed answer for one caller, which may alter what it gets.
        timeless: An answer as it is remembered, without the times that it took when it was computed.
        shared: Whether a question may wait for the answer to one that was asked before.
    """

    digest: Callable[[Task], bytes]
    rows: Callable[[Task], int]
    characters: Callable[[Task], int]
    sealed: Callable[[Result], tuple[Result, int]]
    given: Callable[[Result], Result]
    timeless: Callable[[Result], Result]
    shared: Callable[[Task], bool]


def kind_of(task: Task) -> Kind[Task, Any]:
    """The kind of a question."""
    return _KINDS[type(task)]


def _text_digest(source: Encoding, wanted: int, more: bytes = b"") -> bytes:
    types = source.type_ids
    header = _READING.pack(wanted, len(source.ids), _NO_TYPES if types is None else len(types))
    return _hash(b"".join((header, array("I", source.ids), array("I", types or ()), more))).digest()


def _generation_digest(task: GenerationTask) -> bytes:
    # In the order in which the options are declared; their sets have none.
    options = [getattr(task.decoding, each.name) for each in fields(task.decoding)]
    asked = repr([sorted(each) if isinstance(each, frozenset) else each for each in options])
    return _text_digest(task.source, task.decoding.max_new_tokens, asked.encode())


def _tensors_digest(task: TensorTask) -> bytes:
    arrays = sorted(task.source.arrays.items())
    header = repr((task.wanted, [(name, each.dtype.str, each.shape) for name, each in arrays])).encode()
    digest = _hash(_LENGTH.pack(len(header)) + header)
    for _, each in arrays:
        if each.dtype.hasobject:
            digest.update(_strings(each))
        else:
            digest.update(np.ascontiguousarray(each).reshape(-1).view(np.uint8).data)
    return digest.digest()


def _strings(strings: Array) -> bytes:
    encoded = [each if isinstance(each, bytes) else each.encode() for each in strings.ravel().tolist()]
    return b"".join([part for each in encoded for part in (_LENGTH.pack(len(each)), each)])


def _sealed_answer(answer: RunAnswer[FloatArray]) -> tuple[RunAnswer[FloatArray], int]:
    # A copy, and one that stays as it is: what a run gives is a view of the answers to all its texts.
    given = answer.values
    values: FloatArray = np.ndarray(given.shape, given.dtype, given.tobytes())
    return replace(answer, values=values), _ANSWER_BYTES + _ARRAY_BYTES + values.nbytes


def _sealed_tensors(answer: RunAnswer[Tensors]) -> tuple[RunAnswer[Tensors], int]:
    size, sealed = _ANSWER_BYTES, {}
    for name, each in answer.values.items():
        sealed[name] = kept = each.copy() if _is_part(each) else each
        kept.setflags(write=False)
        size += _ARRAY_BYTES + kept.nbytes
        if kept.dtype.hasobject:
            size += sum([_STRING_BYTES + len(string) for string in kept.ravel().tolist()])
    return replace(answer, values=sealed), size


def _is_part(values: Array) -> bool:
    """Whether an array keeps more in memory than itself."""
    return isinstance(values.base, np.ndarray) and values.base.nbytes > values.nbytes


def _sealed_generated(generated: Generated) -> tuple[Generated, int]:
    numbers = len(generated.token_ids) + sum([len(each.token_ids) for each in generated.hypotheses])
    size = _ANSWER_BYTES + _ARRAY_BYTES * (1 + len(generated.hypotheses)) + _NUMBER_BYTES * numbers
    if generated.text is not None:
        size += _STRING_BYTES + len(generated.text.encode())
    likely = itertools.chain(generated.tokens or (), *[each.tokens or () for each in generated.hypotheses])
    size += sum([TOKEN_BYTES + len(each.top) * LIKELY_BYTES for each in likely])
    if generated.attention is not None:
        size += _ARRAY_BYTES + generated.attention.nbytes
    return generated, size


def _one(_: object) -> int:
    return 1


def _always(_: object) -> bool:
    return True


def _timeless(answer: Result) -> Result:
    return replace(answer, queue_seconds=0.0, inference_seconds=0.0, batch_size=0, batch_tokens=0, batch_id=0)


_KINDS: dict[type, Kind[Any, Any]] = {
    EncodingTask: Kind[EncodingTask, RunAnswer[FloatArray]](
        digest=lambda task: _text_digest(task.source, task.raw),
        rows=_one,
        characters=lambda task: len(task.source),
        sealed=_sealed_answer,
        given=lambda answer: answer,
        timeless=_timeless,
        shared=_always,
    ),
    GenerationTask: Kind[GenerationTask, Generated](
        digest=_generation_digest,
        rows=_one,
        characters=lambda task: len(task.source),
        sealed=_sealed_generated,
        given=lambda generated: replace(generated, token_ids=list(generated.token_ids)),
        timeless=lambda generated: _timeless(replace(generated, token_times=())),
        # Who watches a text wants to see all of it come.
        shared=lambda task: task.watch is None,
    ),
    TensorTask: Kind[TensorTask, RunAnswer[Tensors]](
        digest=_tensors_digest,
        rows=lambda task: task.source.rows,
        characters=lambda task: sum(each.nbytes for each in task.source.arrays.values()) // _BYTES_FOR_A_CHARACTER,
        sealed=_sealed_tensors,
        given=lambda answer: replace(answer, values=dict(answer.values)),
        timeless=_timeless,
        shared=_always,
    ),
}
