"""What each task takes and gives when it is asked in tensors; the only place of these names."""

from __future__ import annotations

from typing import Final

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.model.contract import Signature, TensorSpec
from headwaiter_server.model.datatypes import BYTES

TEXT: Final = "text"
TEXT_PAIR: Final = "text_pair"
QUERY: Final = "query"
EMBEDDING: Final = "embedding"
LABEL: Final = "label"
SCORES: Final = "scores"
SCORE: Final = "score"
SPANS: Final = "spans"
TOKEN_IDS: Final = "token_ids"  # noqa: S105 - an output
LOGPROBS: Final = "logprobs"
FINISH_REASON: Final = "finish_reason"
ALTERNATIVES: Final = "alternatives"

_FLOAT: Final = "FP32"
_ROWS: Final = -1


def signature_of(manifest: bundle_pb2.Manifest, max_rows: int) -> Signature:
    """What a model of texts takes and gives in tensors. A model of tensors knows by itself.

    Args:
        manifest: Of the model, checked.
        max_rows: Most texts of one request.
    """
    inputs, outputs = _tensors(manifest)
    if manifest.task != bundle_pb2.TASK_GENERATE:
        return Signature(inputs, outputs, max_rows)
    # JSON but for the reason and the score: lists with an entry for each token, or each candidate after the best.
    more = (*map(_texts, (TOKEN_IDS, LOGPROBS, FINISH_REASON, ALTERNATIVES)), _numbers(SCORE, 1))
    return Signature(inputs, outputs, max_rows, decoupled=True, more_outputs=more)


def _tensors(manifest: bundle_pb2.Manifest) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    text = _texts(TEXT)
    match manifest.task:
        case bundle_pb2.TASK_EMBED:
            return (text,), (_numbers(EMBEDDING, manifest.embedding.dimension),)
        case bundle_pb2.TASK_CLASSIFY:
            pair = TensorSpec(TEXT_PAIR, BYTES, (_ROWS, 1), optional=True)
            return (text, pair), (_texts(LABEL), _numbers(SCORES, len(manifest.labels)))
        case bundle_pb2.TASK_RERANK:  # row i: query i with text i
            return (_texts(QUERY), text), (_numbers(SCORE, 1),)
        case bundle_pb2.TASK_TAG:  # JSON: a list of objects with start, end, label, score
            return (text,), (_texts(SPANS),)
        case bundle_pb2.TASK_GENERATE:
            return (text,), (_texts(TEXT),)
        case task:
            raise ValueError(f"a model of task {task} reads no texts")


def _texts(name: str) -> TensorSpec:
    return TensorSpec(name, BYTES, (_ROWS, 1))


def _numbers(name: str, columns: int) -> TensorSpec:
    return TensorSpec(name, _FLOAT, (_ROWS, columns))
