"""CTranslate2 behind the same gRPC front: `python -m benchmarks.generation.ctranslate_server FOLDER TOKENIZER ...`.

What an engineer would write around it who wants batches: calls that wait are gathered in the order of arrival while the
library works, and handed to its own asynchronous batching. CTranslate2 takes nobody into a batch that runs, but texts
that are done leave it. One limit on new tokens holds for a whole batch there, so each text's own is kept by the
callback for each token; who has all tokens is answered at once, while the others go on.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ctranslate2
import grpc
import uvloop
from headwaiter_proto.v1 import inference_pb2, inference_pb2_grpc
from tokenizers import Tokenizer


@dataclass(eq=False)
class Job:
    """One text.

    Attributes:
        prompt: Its tokens, as the vocabulary writes them.
        new_tokens: How many it wants.
        watched: Whether somebody wants to know of each token.
        arrived: When, on the performance counter.
        token_ids: What it has got.
        token_seconds: When, since it arrived.
        news: There are tokens that were not there before; of a text that is not watched, all of them.
    """

    prompt: list[str]
    new_tokens: int
    watched: bool
    arrived: float
    token_ids: list[int] = field(default_factory=list)
    token_seconds: list[float] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def done(self) -> bool:
        """Whether it has all its tokens."""
        return len(self.token_ids) >= self.new_tokens


class Batcher:
    """Gathers jobs while the library works."""

    def __init__(self, generator: Any, batches: int, rows: int, options: dict[str, object]) -> None:  # noqa: ANN401
        """Nothing runs yet.

        Args:
            generator: CTranslate2's.
            batches: How many it works on side by side.
            rows: Most texts that are handed over together.
            options: Of its own batching.
        """
        self._generator = generator
        self._idle = batches
        self._rows = rows
        self._options = options
        self._waiting: deque[Job] = deque()
        self._pool = ThreadPoolExecutor(batches)
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Task[None]] = set()

    def submit(self, job: Job) -> None:
        """Have it run, as soon as there is room."""
        self._waiting.append(job)
        self._start()

    def _start(self) -> None:
        while self._idle and self._waiting:
            share = -(-len(self._waiting) // self._idle)
            jobs = [self._waiting.popleft() for _ in range(min(self._rows, share))]
            self._idle -= 1
            task = self._loop.create_task(self._run(jobs))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, jobs: Sequence[Job]) -> None:
        await self._loop.run_in_executor(self._pool, self._generate, jobs)
        self._idle += 1
        self._start()

    def _generate(self, jobs: Sequence[Job]) -> None:
        def token(step: Any) -> bool:  # noqa: ANN401 - the library is untyped
            job: Job = jobs[step.batch_id]
            job.token_seconds.append(time.perf_counter() - job.arrived)
            job.token_ids.append(step.token_id)
            if job.watched or job.done:
                self._loop.call_soon_threadsafe(job.news.set)
            return job.done

        results = self._generator.generate_batch(
            [job.prompt for job in jobs], max_length=max(job.new_tokens for job in jobs), callback=token,
            include_prompt_in_result=False, asynchronous=True, **self._options,
        )  # fmt: skip
        for each in results:
            each.result()


class Service(inference_pb2_grpc.InferenceServiceServicer):  # type: ignore[misc] # generated without types
    """Generates for calls of one text; the only methods."""

    def __init__(self, batcher: Batcher, tokenizer: Path) -> None:
        self._batcher = batcher
        self._tokenizer = Tokenizer.from_file(str(tokenizer))

    def _submit(self, request: inference_pb2.GenerateRequest, *, watched: bool) -> Job:
        arrived = time.perf_counter()
        (text,) = request.texts
        job = Job(self._tokenizer.encode(text).tokens, request.max_new_tokens, watched, arrived)
        self._batcher.submit(job)
        return job

    async def Generate(  # noqa: N802 - gRPC's name
        self, request: inference_pb2.GenerateRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> inference_pb2.GenerateResponse:
        """All tokens at once."""
        job = self._submit(request, watched=False)
        await job.news.wait()
        text = self._tokenizer.decode(job.token_ids)
        answer = inference_pb2.Generation(text=text, token_ids=job.token_ids, token_seconds=job.token_seconds)
        return inference_pb2.GenerateResponse(generations=[answer])

    async def GenerateStream(  # noqa: N802 - gRPC's name
        self, request: inference_pb2.GenerateRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[inference_pb2.GenerateStreamResponse]:
        """Token by token."""
        job = self._submit(request, watched=True)
        told = 0
        while told < job.new_tokens:
            await job.news.wait()
            job.news.clear()
            token_ids = job.token_ids[told:]
            told += len(token_ids)
            yield inference_pb2.GenerateStreamResponse(text=self._tokenizer.decode(token_ids), token_ids=token_ids)


async def serve(options: argparse.Namespace) -> None:
    """Serve until ended."""
    generator = ctranslate2.Generator(
        str(options.model), compute_type=options.compute_type, inter_threads=options.batches,
        intra_threads=options.threads, max_queued_batches=-1,
    )  # fmt: skip
    own = {"max_batch_size": options.max_batch_size, "batch_type": options.batch_type}
    batcher = Batcher(generator, options.batches, options.rows, own)
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(Service(batcher, options.tokenizer), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready grpc=127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--compute-type", default="float32")
    parser.add_argument("--batches", type=int, default=2, help="side by side (inter_threads)")
    parser.add_argument("--threads", type=int, default=1, help="of one batch (intra_threads)")
    parser.add_argument("--rows", type=int, default=32, help="most texts that are handed over together")
    parser.add_argument("--max-batch-size", type=int, default=0, help="what the library makes batches of; 0: all")
    parser.add_argument("--batch-type", choices=["examples", "tokens"], default="examples")
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
