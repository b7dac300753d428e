"""Good requests between the bad ones, whose answers must stay the same to the last bit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from headwaiter_proto.inference import grpc_service_pb2 as oip
from headwaiter_proto.v1 import inference_pb2 as v1
from reliability.fuzz_calls import LIMIT_SECONDS, Caller
from reliability.fuzz_cases import Case
from reliability.fuzz_methods import Method
from reliability.fuzz_seeds import GENERATORS, TENSORS, inference, strings

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_GENERATE = "/headwaiter.v1.InferenceService/Generate"
_LOG_SETTINGS = "/inference.GRPCInferenceService/LogSettings"
_CACHE_HITS = "headwaiter-cache-hits"
# No case has them, so that no answer is remembered that was computed in company.
_TEXT, _WORD = "ada read the third note of water, walked and wrote in london", "lantern"
# In a run with others, an encoder's numbers may differ in their last bits: nothing of these may be under way.
_UNDER_WAY = ("headwaiter_calls_held", "headwaiter_queue_depth", "headwaiter_running_texts")

Scrape = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class _Asked:
    """A request, and what is looked at of its answer."""

    case: Case
    read: Callable[[bytes], bytes]


class Golden:
    """Requests to every model; `check` them once before anything bad is sent, and again after that.

    Attributes:
        computed: Answers so far that were not just remembered.
    """

    def __init__(self, methods: list[Method], scrape: Scrape) -> None:
        """Choose them.

        Args:
            methods: Of the server.
            scrape: Gives the server's metrics.
        """
        (seeds,) = [each.seeds for each in methods if each.path == _INFER]
        tensors = [each for each in seeds if isinstance(each, oip.ModelInferRequest) and _always_answered(each)]
        self._asked = [
            *(_Asked(_case(_INFER, each), bytes) for each in (*_encodings(), *tensors)),
            *(_Asked(_case(_GENERATE, each), _generated) for each in _generations()),
        ]
        self._scrape = scrape
        self._expected: list[bytes] | None = None
        self.computed = 0

    async def check(self, caller: Caller) -> list[str]:
        """Ask all of them; what is wrong with the answers."""
        answers: list[bytes] = []
        wrong = [f"never at rest: {name}" for name in await self._under_way()]
        for each in self._asked:
            ended = await caller.call(each.case)
            self.computed += _CACHE_HITS not in ended.trailers
            if not ended.answers:
                wrong.append(f"{each.case.name}: {ended.code.name}: {ended.details}")
            answers.append(each.read(ended.answers[0]) if ended.answers else b"")
        expected = self._expected = self._expected or answers
        wrong += [
            f"{asked.case.name}: {answer!r} in place of {before!r}"
            for asked, answer, before in zip(self._asked, answers, expected, strict=True)
            if answer != before
        ]
        # Somebody may have asked not to log errors.
        await caller.call(_case(_LOG_SETTINGS, _log_everything()))
        return wrong

    async def _under_way(self) -> list[str]:
        """Wait until the server has done what callers that have gone had asked for; what is left if it never does."""
        ends = time.monotonic() + LIMIT_SECONDS
        while True:
            metrics = await asyncio.to_thread(self._scrape)
            left = [name for name, value in metrics.items() if value and name.partition("{")[0] in _UNDER_WAY]
            if not left or time.monotonic() > ends:
                return left


def _encodings() -> Iterator[oip.ModelInferRequest]:
    # Of one row each: those of several may share a run, or not.
    for model in ("embed", "classify", "tag"):
        yield inference(model, {"text": strings([_TEXT])})
    yield inference("rerank", {"query": strings([_WORD]), "text": strings([_TEXT])})


def _always_answered(message: oip.ModelInferRequest) -> bool:
    in_memory = any("shared_memory_region" in each.parameters for each in message.inputs)
    return message.model_name in TENSORS and not in_memory


def _generations() -> Iterator[v1.GenerateRequest]:
    for model in GENERATORS:
        yield v1.GenerateRequest(model=model, texts=[_WORD], max_new_tokens=20, temperature=0.9, seed=17, logprobs=2)
        yield v1.GenerateRequest(model=model, texts=[_WORD], max_new_tokens=9, num_beams=3, num_return_sequences=2)


def _case(path: str, message: oip.ModelInferRequest | v1.GenerateRequest | oip.LogSettingsRequest) -> Case:
    data: bytes = message.SerializeToString()
    return Case(f"good {path} {str(message)[:60]!r}", "good", path, (data,))


def _generated(answer: bytes) -> bytes:
    """What was generated, without the times that it took."""
    message = v1.GenerateResponse.FromString(answer)
    for each in message.generations:
        del each.token_seconds[:]
    message.ClearField("timings")
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def _log_everything() -> oip.LogSettingsRequest:
    message = oip.LogSettingsRequest()
    for name in ("log_info", "log_warning", "log_error"):
        message.settings[name].bool_param = True
    message.settings["log_verbose_level"].uint32_param = 0
    return message
