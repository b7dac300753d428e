"""Models that generate: options as parameters, further outputs, and streams that tell a text piece by piece."""

from __future__ import annotations

import json
from functools import partial

from .checks import Server, connected, expect, outputs, refused, shows, status, text
from .streaming import Answers, is_final, streaming

WORDS = ("onomatopoeia", "headwaiter", "soup")


def pieces(answers: Answers, rows: int) -> tuple[list[list[bytes]], str]:
    """What each answer to one request tells of each row, and the request's id."""
    told, last, ids = list[list[bytes]](), False, set[str]()
    while not last:
        result = answers.result()
        last = is_final(result)
        ids.add(result.get_response().id)
        if result.get_response().outputs:
            found = result.as_numpy("text")
            assert found.shape == (rows, 1)
            told.append([row[0] for row in found])
    (request_id,) = ids
    return told, request_id


@shows("ModelStreamInfer", "ModelConfig")
def check_pieces(server: Server) -> str:
    """Texts come piece by piece, rows without news empty, and add up to what a unary call answers."""
    with streaming(server) as (client, answers):
        config = client.get_model_config("pronounce").config
        assert config.model_transaction_policy.decoupled
        assert not client.get_model_config("minilm").config.model_transaction_policy.decoupled
        client.async_stream_infer("pronounce", [text(*WORDS)], request_id="g", enable_empty_final_response=True)
        told, request_id = pieces(answers, len(WORDS))
        assert answers.none_left()
        whole = client.infer("pronounce", [text(*WORDS)]).as_numpy("text")
    assert request_id == "g"
    assert len(told) > len(WORDS)
    assert [b"".join(row) for row in zip(*told, strict=True)] == [row[0] for row in whole]
    return f"decoupled; {len(WORDS)} rows in {len(told)} answers, triton_final_response on the last"


@shows("ModelInfer", "request parameters")
def check_options(server: Server) -> str:
    """Options are request parameters of the same names: numbers also as strings, several stops as a JSON list."""
    with connected(server) as client:
        infer = partial(client.infer, "pronounce", [text("onomatopoeia")])
        whole = infer().as_numpy("text")[0, 0].decode()
        drawn = {"temperature": "1.5", "top_k": 20, "top_p": "0.9", "seed": 7}
        assert infer(parameters=drawn).as_numpy("text")[0, 0] == infer(parameters=drawn).as_numpy("text")[0, 0]
        stop = f" {whole.split()[2]}"
        for stops in (stop, json.dumps(["never that", stop])):
            found = infer(parameters={"stop": stops}).as_numpy("text")[0, 0].decode()
            assert found == whole.partition(stop)[0]
        few = infer(parameters={"max_new_tokens": 2, "repetition_penalty": "1.1"}).as_numpy("text")[0, 0].decode()
        assert len(few.split()) == 2
    return f"temperature, top_k, top_p, seed, stop, max_new_tokens; stop={stop!r} leaves {found!r}"


@shows("ModelInfer")
def check_outputs(server: Server) -> str:
    """Tokens, their probabilities, why a text ended, and candidates of beam search: outputs, asked for by name."""
    with connected(server) as client:
        infer = partial(client.infer, "pronounce", [text("soup")])
        assert [each.name for each in infer().get_response().outputs] == ["text"]
        names = ("text", "token_ids", "finish_reason", "logprobs")
        told = infer(outputs=outputs(*names), parameters={"logprobs": 2})
        tokens, logprobs = (json.loads(told.as_numpy(name)[0, 0]) for name in ("token_ids", "logprobs"))
        beams = infer(
            outputs=outputs("text", "score", "alternatives"), parameters={"num_beams": 4, "num_return_sequences": 3}
        )
        others = json.loads(beams.as_numpy("alternatives")[0, 0])
    assert told.as_numpy("finish_reason")[0, 0] == b"end_of_sequence"
    assert [each["top"][0]["token_id"] for each in logprobs] == tokens
    scores = [float(beams.as_numpy("score")[0, 0]), *(each["score"] for each in others)]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    return f"{', '.join(names)}; 3 of 4 beams, scores {', '.join(f'{score:.2f}' for score in scores)}"


@shows("ModelInfer", "errors", "request parameters")
def check_refusals(server: Server) -> str:
    """An option that would have no effect, one that is out of range and one that nobody knows are refused by name."""
    with connected(server) as client:
        infer = partial(client.infer, "pronounce", [text("soup")])
        beams = refused(infer, parameters={"num_beams": 4, "temperature": "0.5"})
        expect(beams, "INVALID_ARGUMENT", "temperature", "num_beams")
        expect(refused(infer, parameters={"top_p": "1.5"}), "INVALID_ARGUMENT", "top_p")
        return expect(refused(infer, parameters={"temprature": 1}), "INVALID_ARGUMENT", "temprature", "temperature")


@shows("ModelStreamInfer", "cancellation")
def check_cancellation(server: Server) -> str:
    """A stream that is cancelled in the middle of its texts gives back their rows and their part of the cache."""
    cancelled = {"model": "pronounce", "code": "CANCELLED"}
    before = server.metric("headwaiter_requests_total", **cancelled)
    with streaming(server) as (client, answers):
        client.async_stream_infer("pronounce", [text(*["abcdefgh" * 6] * 1000)])
        answers.result()
        server.wait_for_metric(0, "headwaiter_kv_cache_bytes", model="pronounce")
        client.stop_stream(cancel_requests=True)
        server.wait_for_metric(before, "headwaiter_requests_total", **cancelled)
        server.wait_for_nothing("headwaiter_kv_cache_bytes", model="pronounce")
        code = status(answers.last_error())
    return f"{code}; headwaiter_kv_cache_bytes 0"
