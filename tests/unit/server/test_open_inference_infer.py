"""`ModelInfer` of models of texts: each task, its options, and tensors in shared memory."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.errors import InvalidRequestError, UnknownModelError, UnsupportedError
from headwaiter_server.rpc.open_inference.elements import join_bytes

from .open_inference import MAX_TEXTS, Asked, classifier, embedder, strings, text_request, vectors


async def test_embedding() -> None:
    """Row i is the vector of text i; the answer says who gave it, and to which request."""
    asked = embedder()
    response = await asked.infer(text_request("a", "bb", "é"))
    assert (response.model_name, response.model_version, response.id) == ("m", "1", "17")
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("embedding", "FP32", [3, 3])
    assert vectors(response) == [[1, ord("a"), 0.5], [2, ord("b"), 0.5], [1, ord("é"), 0.5]]
    assert (asked.crossing.model, asked.crossing.texts, asked.crossing.rows) == ("m", 3, 3)


async def test_trailing_metadata_tells_the_times() -> None:
    """The same names as where a call fails, and the run's facts."""
    asked = embedder()
    await asked.infer(text_request("a"))
    trailers = dict(asked.crossing.trailers)
    assert trailers["headwaiter-queue-seconds"] == "0.001000"
    assert trailers["headwaiter-inference-seconds"] == "0.002000"
    assert float(trailers["headwaiter-total-seconds"]) >= float(trailers["headwaiter-tokenize-seconds"])
    facts = [trailers[f"headwaiter-batch-{name}"] for name in ("size", "tokens", "id")]
    assert facts == ["3", "40", "5"]


async def test_elements_as_fields() -> None:
    """Clients that know no raw contents send each text as a field."""
    request = text_request("a", "bb")
    del request.raw_input_contents[:]
    request.inputs[0].contents.bytes_contents.extend([b"a", b"bb"])
    assert vectors(await embedder().infer(request)) == [[1, ord("a"), 0.5], [2, ord("b"), 0.5]]


async def test_options_of_embedding() -> None:
    """They are parameters, by the names of `headwaiter.v1`."""
    asked = embedder()
    request = text_request("x" * 60)
    request.parameters["truncate"].bool_param = True
    request.parameters["normalize"].bool_param = False
    request.parameters["dimensions"].uint64_param = 2
    request.parameters["prompt"].string_param = "query"
    response = await asked.infer(request)
    assert vectors(response) == [[-63, -ord("q")]]
    assert list(response.outputs[0].shape) == [1, 2]


async def test_classification() -> None:
    """The best label, and all scores, in the order in which they are wanted."""
    request = text_request("a", "b" * 20, text_pair=["x", "y"])
    response = await classifier().infer(request)
    assert [output.name for output in response.outputs] == ["label", "scores"]
    assert strings(response) == ["middle", "middle"]
    assert vectors(response, 1) == [[3, ord("a"), 0.5], [22, ord("b"), 0.5]]
    request.outputs.add(name="scores")
    request.parameters["raw_scores"].bool_param = True
    response = await classifier().infer(request)
    assert [output.name for output in response.outputs] == ["scores"]
    assert vectors(response) == [[-3, -ord("a"), -0.5], [-22, -ord("b"), -0.5]]
    request.outputs.add(name="label")
    response = await classifier().infer(request)
    assert [output.name for output in response.outputs] == ["scores", "label"]
    assert strings(response, 1) == ["high", "high"]


async def test_best_classes() -> None:
    """The classification extension: as many as are wanted, best first, in place of the scores."""
    request = text_request("a", "b" * 20)
    request.outputs.add(name="scores").parameters["classification"].int64_param = 2
    response = await classifier().infer(request)
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("scores", "BYTES", [2, 2])
    assert strings(response) == ["97.000000:1:middle", "1.000000:0:low", "98.000000:1:middle", "20.000000:0:low"]
    request.outputs[0].parameters["classification"].int64_param = 9
    assert list((await classifier().infer(request)).outputs[0].shape) == [2, 3]


async def test_pairs_are_scored_row_by_row() -> None:
    """Each query belongs to the text of its own row."""
    asked = Asked(
        bundle_pb2.Manifest(task=bundle_pb2.TASK_RERANK),
        lambda text, _raw: np.array(ord(text[0]) + 1000 * len(text), np.float32),
    )
    response = await asked.infer(text_request("aa", "b", query=["x", "yyy"]))
    assert response.outputs[0].name == "score"
    assert vectors(response) == [[4000 + ord("x")], [5000 + ord("y")]]
    with pytest.raises(InvalidRequestError, match=r"^inputs\[query\]: is empty"):
        await asked.infer(text_request("aa", "b", query=["x", " "]))


async def test_spans_are_json() -> None:
    """A list for each text, places in characters."""
    manifest = bundle_pb2.Manifest(task=bundle_pb2.TASK_TAG, labels=["O", "UP"])
    asked = Asked(manifest, lambda text, _raw: np.array([[0, 1] if c.isupper() else [1, 0] for c in text], np.float32))
    request = text_request("éA", "b")
    response = await asked.infer(request)
    assert list(response.outputs[0].shape) == [2, 1]
    found = [json.loads(each) for each in strings(response)]
    assert found == [[{"start": 1, "end": 2, "label": "UP", "score": 1.0}], []]
    request.parameters["aggregation"].string_param = "none"
    assert len(json.loads(strings(await asked.infer(request))[0])) == 2
    request.parameters["aggregation"].string_param = "some"
    with pytest.raises(InvalidRequestError, match=r"^parameters\[aggregation\]: is 'some', expected"):
        await asked.infer(request)


async def test_as_many_texts_as_may_be() -> None:
    """The limit is the model's, and reached."""
    response = await embedder().infer(text_request(*["a"] * MAX_TEXTS))
    assert list(response.outputs[0].shape) == [MAX_TEXTS, 3]


async def test_shared_memory(tmp_path: Path) -> None:
    """An input is read from there and has no raw contents; an output is put there, and its entry is empty."""
    texts = join_bytes([b"a", b"bb"])
    (tmp_path / "in").write_bytes(b"before" + texts)
    (tmp_path / "out").write_bytes(bytes(100))
    asked = embedder(shared_memory=tmp_path)
    assert asked.regions is not None
    asked.regions.register("texts", "/in", 0, 6 + len(texts))
    asked.regions.register("vectors", "/out", 0, 100)
    request = text_request("a", "bb")
    del request.raw_input_contents[:]
    place = request.inputs[0].parameters
    place["shared_memory_region"].string_param = "texts"
    place["shared_memory_offset"].int64_param = 6
    place["shared_memory_byte_size"].int64_param = len(texts)
    place = request.outputs.add(name="embedding").parameters
    place["shared_memory_region"].string_param = "vectors"
    place["shared_memory_byte_size"].int64_param = 24
    response = await asked.infer(request)
    assert list(response.raw_output_contents) == [b""]
    (output,) = response.outputs
    assert (output.datatype, list(output.shape)) == ("FP32", [2, 3])
    assert output.parameters["shared_memory_region"].string_param == "vectors"
    written = np.frombuffer((tmp_path / "out").read_bytes()[:24], np.float32).reshape(2, 3)
    assert written.tolist() == [[1, ord("a"), 0.5], [2, ord("b"), 0.5]]
    request.inputs[0].contents.bytes_contents.append(b"a")
    with pytest.raises(InvalidRequestError, match=r"^inputs\[text\]\.contents: are sent beside"):
        await asked.infer(request)


async def test_model_is_exchanged_while_an_input_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call keeps the model that it found, which answers it; with its end the model is free to go."""
    monkeypatch.setattr("headwaiter_server.rpc.open_inference.shared_memory._INLINE_BYTES", 0)
    texts = join_bytes([b"a"])
    (tmp_path / "in").write_bytes(texts)
    asked = embedder(shared_memory=tmp_path)
    assert asked.regions is not None
    asked.regions.register("texts", "/in", 0, len(texts))
    request = text_request("a")
    del request.raw_input_contents[:]
    place = request.inputs[0].parameters
    place["shared_memory_region"].string_param = "texts"
    place["shared_memory_byte_size"].int64_param = len(texts)
    first = asked.catalog.find("m", 0)
    call = asyncio.create_task(asked.infer(request))
    await asyncio.sleep(0)
    asked.catalog.exchange("m", [replace(first, version=2)], [1])
    assert first.leases.count == 1
    response = await call
    assert (response.model_version, vectors(response)) == ("1", [[1.0, ord("a"), 0.5]])
    assert first.leases.count == 0
    request.model_version = "1"
    with pytest.raises(UnknownModelError):
        await asked.infer(request)


async def test_output_without_room_in_shared_memory_is_refused(tmp_path: Path) -> None:
    """A place that is too small, or named for what cannot be there, is told."""
    (tmp_path / "out").write_bytes(bytes(100))
    asked = embedder(shared_memory=tmp_path)
    assert asked.regions is not None
    asked.regions.register("vectors", "/out", 0, 100)
    request = text_request("a")
    place = request.outputs.add(name="embedding").parameters
    place["shared_memory_region"].string_param = "vectors"
    place["shared_memory_byte_size"].int64_param = 11
    with pytest.raises(InvalidRequestError, match=r"^outputs\[embedding\]"):
        await asked.infer(request)
    place["classification"].int64_param = 1
    with pytest.raises(InvalidRequestError, match="cannot go into shared memory"):
        await asked.infer(request)
    assert (tmp_path / "out").read_bytes() == bytes(100)
    del place["classification"]
    with pytest.raises(UnsupportedError, match="switched off"):
        await embedder().infer(request)
