"""Scripts of servers that generate in pieces: a text comes back in upper case, a character a token."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from headwaiter_proto.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import grpc
    from unit.client.scripted_server import AnswerStreamScript

Message = inference_pb2.GenerateStreamResponse
TIMINGS = inference_pb2.Timings(total_seconds=0.5, queue_seconds=0.125, batch_size=2, batch_tokens=9, batch_id=41)


def piece(index: int, text: str, seconds: float = 0.0, logprobs: int | None = None) -> Message:
    """A piece of one token for each character; log-probabilities as if ids were them."""
    token_ids = [ord(character) for character in text]
    likely = [] if logprobs is None else token_ids
    return Message(
        index=index,
        text=text,
        token_ids=token_ids,
        token_seconds=[seconds] * len(text),
        logprobs=[
            inference_pb2.TokenLogprob(
                logprob=-each, top_token_ids=range(logprobs or 0), top_logprobs=map(float, range(logprobs or 0))
            )
            for each in likely
        ],
    )


def finished(message: Message, **fields: object) -> Message:
    """The same piece as the last one of its text."""
    end = inference_pb2.Generation(finish_reason=inference_pb2.FINISH_REASON_END_OF_SEQUENCE, source_tokens=3)
    end.MergeFrom(inference_pb2.Generation(**fields))  # type: ignore[arg-type]  # as of `Generation`
    message.finished.CopyFrom(end)
    return message


def upper_case_messages(request: inference_pb2.GenerateRequest) -> Iterator[Message]:
    """The texts' characters in turn, the ends of texts as they come."""
    logprobs = request.logprobs if request.HasField("logprobs") else None
    longest = max(map(len, request.texts), default=0)
    for place in range(longest):
        for index, text in enumerate(request.texts):
            if place < len(text):
                message = piece(index, text[place].upper(), (place + 1) / 8, logprobs)
                yield finished(message, seed=request.seed or 7) if place == len(text) - 1 else message


def told(messages: Iterable[Message]) -> Iterator[bytes]:
    """Messages as a server sends them: the first says who answers, the last where the time went."""
    held: Message | None = None
    for message in messages:
        if held is None:
            message.model, message.version, message.variant = "shout", 3, "fp32"
        else:
            yield held.SerializeToString()
        held = message
    if held is not None:
        held.timings.CopyFrom(TIMINGS)
        yield held.SerializeToString()


def upper_case_stream(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    """A script for `GenerateStream`."""
    yield from told(upper_case_messages(inference_pb2.GenerateRequest.FromString(raw)))


class Endless:
    """A script whose stream goes on, piece by piece as the test lets it, until its caller is gone.

    Attributes:
        called: Set when a call has come.
        gone: Set when it has ended.
    """

    def __init__(self) -> None:
        self.called = threading.Event()
        self.gone = threading.Event()
        self._pieces: queue.Queue[str | None] = queue.Queue()

    def say(self, text: str) -> None:
        """Lets the next piece out."""
        self._pieces.put(text)

    def __call__(self, raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(self._end)
        self.called.set()
        while (text := self._pieces.get(timeout=30)) is not None:
            yield piece(0, text).SerializeToString()

    def _end(self) -> None:
        self.gone.set()
        self._pieces.put(None)


def stream_of(*messages: Message) -> AnswerStreamScript:
    """A script that sends these."""
    return lambda raw, context: told(messages)
