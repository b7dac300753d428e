"""Inferences without a socket: a pipeline around a lane that answers at once, and requests by hand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.batching.task import EncodingEntry, RunAnswer
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.lifecycle.signature import signature_of
from headwaiter_server.metrics import Metrics
from headwaiter_server.model.contract import FloatArray
from headwaiter_server.pipeline import Pipeline
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.open_inference.elements import join_bytes, split_bytes
from headwaiter_server.rpc.open_inference.infer import Inference
from headwaiter_server.rpc.open_inference.shared_memory import SharedMemory
from headwaiter_server.scheduling.admission import Admission
from headwaiter_server.scheduling.calls import Terms
from headwaiter_server.shared_memory import Regions

Request = grpc_service_pb2.ModelInferRequest
Response = grpc_service_pb2.ModelInferResponse
Answer = Callable[[str, bool], FloatArray]

MAX_TEXTS = 100
LABELS = ["low", "middle", "high"]
_MOST_LETTERS = 50


class LetterTokenizer:
    """A token for each character; pairs have a bar between them. More than 50 characters are too many."""

    def encode_all(
        self, texts: list[str], field: str, *, truncate: bool = False, offsets: bool = False
    ) -> list[Encoding]:
        encodings = []
        for index, text in enumerate(texts):
            if len(text) > _MOST_LETTERS and not truncate:
                raise InvalidRequestError(f"{field}[{index}]", f"has {len(text)} tokens, the limit is {_MOST_LETTERS}")
            places = [(place, place + 1) for place in range(len(text))]
            encodings.append(Encoding([ord(letter) for letter in text], offsets=places if offsets else None))
        return encodings

    def encode_pairs(
        self, pairs: Iterable[tuple[str, str]], field: str, *, truncate: bool = False, keep_first: bool = False
    ) -> list[Encoding]:
        return self.encode_all([f"{first}|{second}" for first, second in pairs], field, truncate=truncate)


class InstantLane:
    """Answers each text at once by a function of it and of whether the raw answer is wanted."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.terms: list[Terms] = []

    def foresee(self, _terms: object, _texts: int) -> None:
        """It has room for all."""

    def submit(self, entries: list[EncodingEntry]) -> None:
        for entry in entries:
            self.terms.append(entry.call.terms)
            text = "".join(map(chr, entry.payload.source.ids))
            entry.resolve(RunAnswer(self._answer(text, entry.payload.raw), 0.001, 0.002, 3, 40, 5))


class Dispatching:
    """Stands for the dispatcher, which has nothing to do."""

    clock = staticmethod(time.monotonic)

    def wake(self) -> None:
        pass


class Asked:
    """A model of texts that is asked for inferences.

    Attributes:
        inference: What answers.
        catalog: What it finds.
        lane: Where its texts come.
        crossing: What was learnt of the latest call.
    """

    def __init__(
        self,
        manifest: bundle_pb2.Manifest,
        answer: Answer,
        shared_memory: Path | None = None,
        names: Sequence[tuple[str, int]] = (("m", 1),),
    ) -> None:
        """Set up.

        Args:
            manifest: The model's.
            answer: What it answers a text.
            shared_memory: Folder of the shared memory; None if it is switched off.
            names: Names and versions under which it serves.
        """
        self.lane = InstantLane(answer)
        self.catalog = catalog = Catalog()
        signature = signature_of(manifest, MAX_TEXTS)
        for name, version in names:
            tokenizer, lane = cast("Any", LetterTokenizer()), cast("Any", self.lane)
            catalog.add(ServedModel(name, version, "fp32", manifest, tokenizer, lane, signature=signature))
        pipeline = Pipeline(catalog, cast("Any", Dispatching()), Metrics(), MAX_TEXTS)
        regions = Regions(shared_memory) if shared_memory is not None else None
        self.regions = regions
        self.inference = Inference(pipeline, SharedMemory(regions))
        self.crossing = Crossing(Terms(time.monotonic()))
        self._admission = Admission(10, 1 << 24, 1000)

    async def infer(self, request: Request) -> Response:
        """Ask, as one call."""
        return await self.infer_bytes(request.SerializeToString())

    async def infer_bytes(self, data: bytes) -> Response:
        """Ask with bytes that may be no request."""
        self.crossing = Crossing(Terms(time.monotonic()))
        with self._admission.admit(1) as permit:
            return Response.FromString(await self.inference.infer(data, permit, self.crossing))


def text_request(*texts: str, **others: Sequence[str]) -> Request:
    """A request with an input `text`, and others; named raw contents each."""
    request = Request(model_name="m", id="17")
    for name, values in {"text": texts, **others}.items():
        request.inputs.add(name=name, datatype="BYTES", shape=[len(values), 1])
        request.raw_input_contents.append(join_bytes([value.encode() for value in values]))
    return request


def open_generation_request(
    *texts: str,
    outputs: Sequence[str] = (),
    id: str = "7",  # noqa: A002 - as the protocol has it
    model: str = "m",
    **options: bool | float | str,
) -> Request:
    """A request with outputs that it names, and options as tritonclient sends them."""
    request = text_request(*texts or ("3 4",))
    request.id, request.model_name = id, model
    for name in outputs:
        request.outputs.add(name=name)
    for name, value in options.items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


def scores_of(text: str, raw: bool) -> FloatArray:  # noqa: FBT001 - as the lane is told
    """The text's length, told from all others by its first letter; raw scores are negated."""
    return np.array([len(text), ord(text[0]), 0.5], np.float32) * (-1 if raw else 1)


def embedder(**more: Any) -> Asked:  # noqa: ANN401 - as `Asked` takes it
    """A model of vectors of 3 numbers, which are `scores_of`."""
    embedding = bundle_pb2.Embedding(dimension=3, normalized=True, prompts={"query": "q: "})
    return Asked(bundle_pb2.Manifest(task=bundle_pb2.TASK_EMBED, embedding=embedding), scores_of, **more)


def classifier() -> Asked:
    """A model with 3 labels, whose scores are `scores_of`."""
    return Asked(bundle_pb2.Manifest(task=bundle_pb2.TASK_CLASSIFY, labels=LABELS), scores_of)


def vectors(response: Response, index: int = 0) -> list[list[float]]:
    """The rows of an output of FP32."""
    shape = tuple(response.outputs[index].shape)
    array = np.frombuffer(response.raw_output_contents[index], np.float32).reshape(shape)
    return [[float(value) for value in row] for row in array]


def strings(response: Response, index: int = 0) -> list[str]:
    """The elements of an output of BYTES."""
    content = response.raw_output_contents[index]
    count = math.prod(response.outputs[index].shape)
    return [str(element, "utf-8") for element in split_bytes("x", count, content, 0, len(content))]
