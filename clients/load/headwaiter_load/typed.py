"""Requests of `headwaiter.v1`, for each task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from headwaiter_proto.v1 import inference_pb2

from headwaiter_load.errors import BadInputError
from headwaiter_load.requests import Exchange, Requests

_SERVICE: Final = "/headwaiter.v1.InferenceService"


@dataclass(frozen=True, slots=True)
class Asked:
    """What every request of a run says besides its texts.

    Attributes:
        model: The model.
        version: Its version; 0 for the one that serves.
        truncate: Whether texts over the limit are cut.
        query: What rerank calls look for.
        max_new_tokens: Of generate calls; 0 for the model's limit.
    """

    model: str = ""
    version: int = 0
    truncate: bool = False
    query: str = ""
    max_new_tokens: int = 0


def _embed(asked: Asked, texts: Sequence[str]) -> bytes:
    return inference_pb2.EmbedRequest(
        model=asked.model, version=asked.version, texts=texts, truncate=asked.truncate
    ).SerializeToString()


def _classify(asked: Asked, texts: Sequence[str]) -> bytes:
    return inference_pb2.ClassifyRequest(
        model=asked.model, version=asked.version, texts=texts, truncate=asked.truncate
    ).SerializeToString()


def _tag(asked: Asked, texts: Sequence[str]) -> bytes:
    return inference_pb2.TagRequest(
        model=asked.model, version=asked.version, texts=texts, truncate=asked.truncate
    ).SerializeToString()


def _rerank(asked: Asked, texts: Sequence[str]) -> bytes:
    return inference_pb2.RerankRequest(
        model=asked.model, version=asked.version, query=asked.query, texts=texts, truncate=asked.truncate
    ).SerializeToString()


def _generate(asked: Asked, texts: Sequence[str]) -> bytes:
    return inference_pb2.GenerateRequest(
        model=asked.model, version=asked.version, texts=texts, max_new_tokens=asked.max_new_tokens
    ).SerializeToString()


def _tokenize(asked: Asked, texts: Sequence[str]) -> bytes:
    return inference_pb2.TokenizeRequest(model=asked.model, version=asked.version, texts=texts).SerializeToString()


_TASKS: Final[dict[str, tuple[str, Callable[[Asked, Sequence[str]], bytes]]]] = {
    "embed": ("Embed", _embed),
    "classify": ("Classify", _classify),
    "tag": ("Tag", _tag),
    "rerank": ("Rerank", _rerank),
    "generate": ("Generate", _generate),
    "tokenize": ("Tokenize", _tokenize),
}
TASKS: Final = tuple(_TASKS)


# Of each task that has a stream: its method, and what is exchanged over it.
_STREAMS: Final[dict[str, tuple[str, Exchange]]] = {
    "embed": ("EmbedStream", "embed-stream"),
    "generate": ("GenerateStream", "generate-stream"),
}


def typed_requests(task: str, asked: Asked, calls: Sequence[Sequence[str]], *, stream: bool) -> Requests:
    """The requests of a run.

    Raises:
        BadInputError: The task has no stream.
    """
    method, request = _TASKS[task]
    exchange: Exchange = "generate" if task == "generate" else "unary"
    if stream and task not in _STREAMS:
        raise BadInputError(f"--stream goes with the tasks {' and '.join(_STREAMS)} only; {task} has no stream")
    if stream:
        method, exchange = _STREAMS[task]
    return Requests(
        path=f"{_SERVICE}/{method}",
        exchange=exchange,
        payloads=tuple(request(asked, texts) for texts in calls),
        rows=tuple(map(len, calls)),
    )
