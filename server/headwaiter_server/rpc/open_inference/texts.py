"""Tasks of texts, asked in tensors: inputs of BYTES to the pipeline's requests, and its replies to outputs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import numpy as np
from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.lifecycle.signature import EMBEDDING, LABEL, QUERY, SCORE, SCORES, SPANS, TEXT, TEXT_PAIR
from headwaiter_server.pipeline import (
    ClassificationRequest,
    EmbeddingRequest,
    PairsRequest,
    TaggingRequest,
)
from headwaiter_server.pipeline.spans import Aggregation
from headwaiter_server.rpc.open_inference.elements import object_array
from headwaiter_server.rpc.open_inference.generation import generate
from headwaiter_server.rpc.open_inference.inputs import Input
from headwaiter_server.rpc.open_inference.outputs import Outcome
from headwaiter_server.rpc.open_inference.parameters import path
from headwaiter_server.rpc.open_inference.text_call import TextCall, TextTask

# More is decoded on a thread, so that the event loop is not held for it: this much takes a millisecond at the most.
_INLINE_BYTES = 1 << 20
_PARAMETERS, _, _ = path("").partition("[")
_AGGREGATIONS: dict[str, Aggregation] = {"entities": "entities", "none": "none"}


async def read_texts(inputs: Mapping[str, Input], max_rows: int) -> dict[str, list[str]]:
    """The inputs of a model of texts: one text a row.

    Args:
        inputs: The inputs; at least one.
        max_rows: Most texts of a request.

    Raises:
        InvalidRequestError: One has another shape, too many rows or fewer than another, or is no text.
    """
    rows = None
    for each in inputs.values():
        shape = each.shape
        if len(shape) != 2 or shape[1] != 1:  # noqa: PLR2004 - rows of one text
            raise InvalidRequestError(f"{each.field}.shape", f"is {list(shape)}, the model takes [-1, 1]")
        if shape[0] > max_rows:
            raise InvalidRequestError(f"{each.field}.shape", f"has {shape[0]} rows, the limit is {max_rows}")
        if rows is not None and shape[0] != rows:
            raise InvalidRequestError(f"{each.field}.shape", f"has {shape[0]} rows, another input has {rows}")
        rows = shape[0]
    return {name: await _texts(each) for name, each in inputs.items()}


async def _texts(tensor: Input) -> list[str]:
    return await asyncio.to_thread(tensor.texts) if tensor.size_bytes > _INLINE_BYTES else tensor.texts()


async def answer_texts(task: TextTask, call: TextCall) -> Outcome:
    """Do a task.

    Raises:
        RequestError: It cannot be done; fields are named as this protocol has them.
    """
    try:
        return await task(call)
    except InvalidRequestError as error:
        name, bracket, index = error.field.partition("[")
        if name == _PARAMETERS:
            raise
        raise InvalidRequestError(_FIELDS.get(name, path(name)) + bracket + index, error.description) from error


async def _embed(call: TextCall) -> Outcome:
    options = call.options
    request = EmbeddingRequest(
        call.model.name,
        call.model.version,
        call.texts[TEXT],
        truncate=options.flag("truncate"),
        prompt=options.get("prompt", str),
        dimensions=options.count("dimensions"),
        normalize=options.get("normalize", bool),
    )
    options.end()
    reply = await call.pipeline.embed(call.permit, call.terms, request)
    return Outcome(reply.model, {EMBEDDING: reply.vectors}, reply.timings)


async def _classify(call: TextCall) -> Outcome:
    options = call.options
    request = ClassificationRequest(
        call.model.name,
        call.model.version,
        call.texts[TEXT],
        call.texts.get(TEXT_PAIR, ()),
        truncate=options.flag("truncate"),
        raw_scores=options.flag("raw_scores"),
    )
    options.end()
    reply = await call.pipeline.classify(call.permit, call.terms, request)
    scores = np.stack(reply.scores)
    labels = [label.encode() for label in reply.model.manifest.labels]
    best = [labels[index] for index in scores.argmax(axis=1).tolist()]
    return Outcome(reply.model, {LABEL: object_array(best, (len(best), 1)), SCORES: scores}, reply.timings)


async def _rerank(call: TextCall) -> Outcome:
    options = call.options
    request = PairsRequest(
        call.model.name,
        call.model.version,
        call.texts[QUERY],
        call.texts[TEXT],
        truncate=options.flag("truncate"),
        raw_scores=options.flag("raw_scores"),
    )
    options.end()
    reply = await call.pipeline.score_pairs(call.permit, call.terms, request)
    return Outcome(reply.model, {SCORE: reply.scores.reshape(-1, 1)}, reply.timings)


async def _tag(call: TextCall) -> Outcome:
    options = call.options
    request = TaggingRequest(
        call.model.name,
        call.model.version,
        call.texts[TEXT],
        truncate=options.flag("truncate"),
        raw_scores=options.flag("raw_scores"),
        aggregation=_aggregation(options.get("aggregation", str)),
    )
    options.end()
    reply = await call.pipeline.tag(call.permit, call.terms, request)
    spans = [
        json.dumps(
            [{"start": each.start, "end": each.end, "label": each.label, "score": each.score} for each in found],
            ensure_ascii=False,
        ).encode()
        for found in reply.spans
    ]
    return Outcome(reply.model, {SPANS: object_array(spans, (len(spans), 1))}, reply.timings)


def _aggregation(asked: str | None) -> Aggregation:
    if asked is None:
        return "entities"
    if asked not in _AGGREGATIONS:
        raise InvalidRequestError("aggregation", f"is {asked[:100]!r}, expected {' or '.join(_AGGREGATIONS)}")
    return _AGGREGATIONS[asked]


# What the pipeline names, as this protocol has it; what else it names are parameters.
_FIELDS = {
    "model": "model_name",
    "version": "model_version",
    "texts": f"inputs[{TEXT}]",
    "second_texts": f"inputs[{TEXT_PAIR}]",
    "query": f"inputs[{QUERY}]",
    "outputs": "outputs",
}

TEXT_TASKS: Mapping[bundle_pb2.Task, TextTask] = {
    bundle_pb2.TASK_EMBED: _embed,
    bundle_pb2.TASK_CLASSIFY: _classify,
    bundle_pb2.TASK_RERANK: _rerank,
    bundle_pb2.TASK_TAG: _tag,
    bundle_pb2.TASK_GENERATE: generate,
}
