"""Callers who remember how each of their calls ended, and never try twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
from headwaiter_proto.v1 import inference_pb2

_SERVICE = "headwaiter.v1.InferenceService"


@dataclass(frozen=True)
class Call:
    """One call as its caller saw it."""

    model: str
    code: str
    seconds: float
    texts: int
    generated_tokens: int = 0


@dataclass(frozen=True)
class Sent:
    """A call that is under way; `ended` waits for it."""

    future: grpc.Future[bytes] | grpc.Call
    ended: Callable[[], Call]


@dataclass
class Callers:
    """Callers of one server, on a channel that never tries twice."""

    channel: grpc.Channel
    seen: list[Call] = field(default_factory=list)

    def embed(self, *texts: str, model: str = "embed", timeout: float | None = None) -> Sent:
        """Have texts embedded."""
        request = inference_pb2.EmbedRequest(model=model, texts=texts)
        return self._send("Embed", model, request.SerializeToString(), len(texts), timeout)

    def tag(self, *texts: str) -> Sent:
        """Have texts tagged, by the padded model."""
        request = inference_pb2.TagRequest(model="tag", texts=texts)
        return self._send("Tag", "tag", request.SerializeToString(), len(texts), None)

    def generate(self, *texts: str, timeout: float | None = None, num_beams: int = 0) -> Sent:
        """Have texts generated."""
        request = inference_pb2.GenerateRequest(model="pronounce", texts=texts, num_beams=num_beams)
        return self._send("Generate", "pronounce", request.SerializeToString(), len(texts), timeout)

    def generate_unread(self, *texts: str) -> Sent:
        """Have texts generated over a stream that nobody reads before it has ended."""
        request = inference_pb2.GenerateRequest(model="pronounce", texts=texts)
        multi: grpc.UnaryStreamMultiCallable[bytes, bytes] = self.channel.unary_stream(f"/{_SERVICE}/GenerateStream")
        started = time.monotonic()
        stream = multi(request.SerializeToString())

        def ended() -> Call:
            try:
                for _ in stream:
                    pass
            except grpc.RpcError:
                pass
            call = Call("pronounce", stream.code().name, time.monotonic() - started, len(texts))
            self.seen.append(call)
            return call

        return Sent(stream, ended)

    def _send(self, method: str, model: str, data: bytes, texts: int, timeout: float | None) -> Sent:
        multi: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(f"/{_SERVICE}/{method}")
        started = time.monotonic()
        future = multi.future(data, timeout=timeout)

        def ended() -> Call:
            tokens = 0
            try:
                reply = future.result()
            except grpc.FutureCancelledError:
                code = "CANCELLED"
            except grpc.RpcError as error:
                code = error.code().name
            else:
                code = "OK"
                if method == "Generate":
                    generations = inference_pb2.GenerateResponse.FromString(reply).generations
                    tokens = sum(len(generation.token_ids) for generation in generations)
            call = Call(model, code, time.monotonic() - started, texts, tokens)
            self.seen.append(call)
            return call

        return Sent(future, ended)

    def together(self, send: Callable[[int], Sent], times: int, at_once: int) -> None:
        """Make so many calls, some of them at once."""
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(lambda number: send(number).ended(), range(times)))
