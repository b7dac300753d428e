"""Callers of models that generate, over a plain channel that never tries twice; and texts to generate from."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from headwaiter_proto.v1.inference_pb2 import GenerateRequest, GenerateResponse, GenerateStreamResponse, Generation

from .process import ServerProcess, running_server
from .tiny_generators import DECODER, TRANSLATOR

if TYPE_CHECKING:
    Stream = grpc._CallIterator[GenerateStreamResponse]

MODELS = (DECODER, TRANSLATOR)
_SERVICE = "headwaiter.v1.InferenceService"
_WORDS = ("soup", "ada", "note", "the", "rest", "hand", "order", "tea", "é", "water", "日本", "in", "short")
# Of calls that wait for many others, on a machine that may be slow.
_PATIENT_SECONDS = 240.0

# Ways to ask; the seeds belong to the text.
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"max_new_tokens": 7},
    {"temperature": 0.8, "seed": 3, "top_k": 20, "top_p": 0.9},
    {"temperature": 1.5, "seed": 2**64 - 1, "logprobs": 3},
    {"repetition_penalty": 1.7, "logprobs": 0},
    {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.6, "max_new_tokens": 12},
    {"stop": ["a", "[", "zq"], "max_new_tokens": 60},
    {"stop_token_ids": [93, 94, 95, 96, 97, 98, 99], "temperature": 1.0, "seed": 5},
)


@dataclass(frozen=True)
class Generators:
    """Callers of one server."""

    channel: grpc.Channel

    def generate(self, model: str, *texts: str, **options: Any) -> list[Generation]:  # noqa: ANN401 - fields of the request
        """What is generated for each text."""
        call: grpc.UnaryUnaryMultiCallable[GenerateRequest, GenerateResponse] = self.channel.unary_unary(
            f"/{_SERVICE}/Generate", GenerateRequest.SerializeToString, GenerateResponse.FromString
        )
        return list(call(asked(model, *texts, **options), timeout=_PATIENT_SECONDS).generations)

    def stream(self, request: GenerateRequest, timeout: float | None = _PATIENT_SECONDS) -> Stream:
        """The pieces of a stream, as they come."""
        call: grpc.UnaryStreamMultiCallable[GenerateRequest, GenerateStreamResponse] = self.channel.unary_stream(
            f"/{_SERVICE}/GenerateStream", GenerateRequest.SerializeToString, GenerateStreamResponse.FromString
        )
        return call(request, timeout=timeout)


def asked(model: str, *texts: str, **options: Any) -> GenerateRequest:  # noqa: ANN401 - fields of the request
    """A request."""
    return GenerateRequest(model=model, texts=texts, **options)


@contextmanager
def generators(target: str) -> Iterator[Generators]:
    """Callers of the server there."""
    with grpc.insecure_channel(target, options=[("grpc.enable_retries", 0)]) as channel:
        yield Generators(channel)


def texts_of_mixed_length(count: int, longest_words: int = 20, seed: int = 0) -> list[str]:
    """Texts of which some are read in one go and others are not; always the same."""
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(_WORDS, k=chosen.randint(1, longest_words))) for _ in range(count)]


def untimed(generation: Generation) -> bytes:
    """All that is told of a generation but when its tokens came: to the last bit."""
    copy = Generation()
    copy.CopyFrom(generation)
    del copy.token_seconds[:]
    return copy.SerializeToString(deterministic=True)


def put_together(pieces: Iterable[GenerateStreamResponse]) -> dict[int, Generation]:
    """What the pieces of a stream add up to, by text: as `Generate` would have answered it."""
    whole: dict[int, Generation] = {}
    finished = set[int]()
    for piece in pieces:
        assert piece.index not in finished, "a piece after the last one"
        text = whole.setdefault(piece.index, Generation())
        text.text += piece.text
        text.token_ids.extend(piece.token_ids)
        text.token_seconds.extend(piece.token_seconds)
        text.logprobs.extend(piece.logprobs)
        if piece.HasField("finished"):
            told = piece.finished
            assert [told.text, *told.token_ids, *told.token_seconds, *told.logprobs] == [""]
            text.MergeFrom(told)
            finished.add(piece.index)
    assert finished == set(whole)
    return whole


def serving(repository: Path, *arguments: str) -> AbstractContextManager[ServerProcess]:
    """A server that ends without a lame-duck time."""
    return running_server("--models", str(repository), "--lame-duck-seconds", "0", *arguments)


def held(server: ServerProcess, model: str) -> dict[str, float]:
    """What a server holds for a model at this moment: texts, rows and bytes of the cache."""
    return _held(server.scrape(), model)


def _held(scraped: Mapping[str, float], model: str) -> dict[str, float]:
    names = ("queue_depth", "running_texts", "generation_rows", "kv_cache_bytes")
    return {name: scraped[f'headwaiter_{name}{{model="{model}"}}'] for name in names}


def wait_until_nothing_is_held(server: ServerProcess, *models: str, seconds: float = 60.0) -> None:
    """Wait until the last text has left, and the last call, which may be told a moment later that it has ended.

    Raises:
        AssertionError: Something stays.
    """
    until = time.monotonic() + seconds
    while left := _left(server, models):
        assert time.monotonic() < until, left
        time.sleep(0.02)


def _left(server: ServerProcess, models: Iterable[str]) -> dict[str, float]:
    scraped = server.scrape()
    of_models = {f"{model} {name}": value for model in models for name, value in _held(scraped, model).items()}
    return {name: value for name, value in (of_models | {"calls": scraped["headwaiter_calls_held"]}).items() if value}


def endless(model: str, texts: int = 1000) -> GenerateRequest:
    """A request that takes far longer than anybody waits: many long texts, of which hardly any ends by itself."""
    return asked(model, *texts_of_mixed_length(texts), temperature=5.0, seed=7, logprobs=10)
