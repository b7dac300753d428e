"""Generation that ends early, and servers and versions that end while texts are generated: nothing is left behind."""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from headwaiter_proto.inference.grpc_service_pb2 import RepositoryModelLoadRequest
from headwaiter_proto.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from headwaiter_proto.v1.inference_pb2 import Generation

from .generating import (
    MODELS,
    OPTIONS,
    Generators,
    asked,
    endless,
    generators,
    held,
    put_together,
    serving,
    texts_of_mixed_length,
    untimed,
    wait_until_nothing_is_held,
)
from .process import ServerProcess
from .tiny_generators import DECODER, TRANSLATOR

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("model", MODELS)
def test_breaking_out_frees_rows_and_cache(served: ServerProcess, callers: Generators, model: str) -> None:
    """While a stream goes on its texts have rows and reserved bytes; when its caller leaves, nothing is left of it."""
    stream = callers.stream(endless(model))
    assert next(stream).token_ids
    taken = held(served, model)
    assert taken["generation_rows"] > 1
    assert taken["kv_cache_bytes"] > 0
    assert taken["queue_depth"] > 0
    stream.cancel()
    wait_until_nothing_is_held(served, *MODELS)


@pytest.fixture(scope="module")
def one_by_one(generators_repository: Path) -> Iterator[ServerProcess]:
    """A server that generates one text at a time: what is endless takes minutes, on any machine."""
    with serving(generators_repository, "--workers", "1", "--max-batch-rows", "1") as process:
        yield process


@pytest.mark.parametrize("model", MODELS)
def test_deadline_ends_a_stream(one_by_one: ServerProcess, model: str) -> None:
    """It ends with DEADLINE_EXCEEDED, after pieces that came in time; nothing is left of it."""
    with generators(one_by_one.grpc) as callers:
        # Time enough for the first piece, however busy the machine is.
        stream = callers.stream(endless(model), timeout=6.0)
        assert next(stream).token_ids
        with pytest.raises(grpc.RpcError) as ended:
            put_together(stream)
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until_nothing_is_held(one_by_one, *MODELS)


def test_slow_reader_holds_up_nobody(served: ServerProcess, callers: Generators) -> None:
    """A stream that nobody reads is generated all the same, and others are answered; what was not read is not lost."""
    request = asked(DECODER, *texts_of_mixed_length(40), temperature=2.0, seed=1, logprobs=20)
    stream = callers.stream(request)
    first = next(stream)
    generated = 'headwaiter_generations_total{finish_reason="length",model="gpt2"}'
    before = served.scrape()[generated]
    whole = callers.generate(DECODER, *request.texts, temperature=2.0, seed=1, logprobs=20)
    assert served.scrape()[generated] > before
    told = put_together([first, *stream])
    assert [untimed(told[index]) for index in range(40)] == list(map(untimed, whole))


def test_chaos_of_early_ends_leaves_nothing_and_changes_nothing(served: ServerProcess, callers: Generators) -> None:
    """300 streams of which most are left in the middle: the others have their own answers, and nothing is held."""
    texts = texts_of_mixed_length(300, seed=3)
    chosen = random.Random(4)
    leave_after = [chosen.choice((0, 1, 2, 5, 20, None)) for _ in texts]
    expected = {
        number: callers.generate(MODELS[number % 2], texts[number], **OPTIONS[number % len(OPTIONS)])[0]
        for number, pieces in enumerate(leave_after)
        if pieces is None
    }

    def call(number: int) -> Generation | None:
        stream = callers.stream(asked(MODELS[number % 2], texts[number], **OPTIONS[number % len(OPTIONS)]))
        if (most := leave_after[number]) is None:
            return put_together(stream)[0]
        for _, _ in zip(range(most), stream, strict=False):
            pass
        stream.cancel()
        return None

    with ThreadPoolExecutor(24) as pool:
        found = dict(enumerate(pool.map(call, range(len(texts)))))
    for number, each in expected.items():
        told = found[number]
        assert told is not None
        assert untimed(each) == untimed(told)
    wait_until_nothing_is_held(served, *MODELS)


@pytest.mark.alone
def test_drain_lets_streams_end_and_another_server_goes_on_alike(generators_repository: Path) -> None:
    """After SIGTERM a stream is told to its end; a server started anew gives the very same answers."""
    request = asked(DECODER, *texts_of_mixed_length(60), temperature=1.0, seed=11, logprobs=1)
    with serving(generators_repository, "--drain-seconds", "60") as first, generators(first.grpc) as callers:
        stream = callers.stream(request)
        pieces = [next(stream)]
        first.process.send_signal(signal.SIGTERM)
        pieces += stream
        assert stream.code() is grpc.StatusCode.OK
        assert first.process.wait(60) == 0
    with (
        serving(generators_repository, "--max-batch-rows", "5", "--workers", "1") as second,
        generators(second.grpc) as callers,
    ):
        again = list(callers.stream(request))
    one, other = put_together(pieces), put_together(again)
    assert [untimed(one[index]) for index in range(60)] == [untimed(other[index]) for index in range(60)]


def test_what_could_never_fit_is_refused_and_what_could_waits(generators_repository: Path) -> None:
    """With room for few texts at a time all are answered, as with much; a text that has none is refused, by name."""
    request = asked(DECODER, *texts_of_mixed_length(30, longest_words=6), max_new_tokens=40)
    # 2 layers of 32 keys and 32 values, of 4 bytes each: 512 bytes for each token.
    few = ("--kv-cache-bytes", str(4 * 100 * 512), "--workers", "1")
    with serving(generators_repository, *few) as server, generators(server.grpc) as callers:
        found = callers.generate(DECODER, *request.texts, max_new_tokens=40)
        with pytest.raises(grpc.RpcError) as refused:
            callers.generate(DECODER, "soup", num_beams=16, max_new_tokens=150)
        scraped = server.scrape()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "kv-cache-bytes" in (refused.value.details() or "")
    assert scraped['headwaiter_kv_cache_short_iterations_total{model="gpt2"}'] > 0
    assert scraped['headwaiter_kv_cache_limit_bytes{model="gpt2"}'] <= 4 * 100 * 512
    with serving(generators_repository) as server, generators(server.grpc) as callers:
        assert list(map(untimed, callers.generate(DECODER, *request.texts, max_new_tokens=40))) == list(
            map(untimed, found)
        )
        assert server.scrape()['headwaiter_kv_cache_short_iterations_total{model="gpt2"}'] == 0


def test_swap_lets_texts_end_with_the_version_that_began_them(generators_dir: Path, tmp_path: Path) -> None:
    """A stream that version 1 has begun is told to its end by it, while new calls are answered by version 2."""
    for version, source in ((1, DECODER), (2, TRANSLATOR)):
        shutil.copytree(generators_dir / source / "1", tmp_path / "swapped" / str(version))
    request = asked("swapped", *texts_of_mixed_length(100), temperature=1.0, seed=1)
    with (
        serving(tmp_path, "--model-control", "explicit", "--trial-loads", "off") as server,
        generators(server.grpc) as callers,
    ):

        def load(version: int) -> None:
            wanted = RepositoryModelLoadRequest(model_name="swapped")
            policy = {"version_policy": {"specific": {"versions": [version]}}}
            wanted.parameters["config"].string_param = json.dumps(policy)
            GRPCInferenceServiceStub(callers.channel).RepositoryModelLoad(wanted, timeout=60)

        load(1)
        whole = callers.generate("swapped", *request.texts, temperature=1.0, seed=1)
        stream = callers.stream(request)
        pieces = [next(stream)]
        load(2)
        (newer, *_) = callers.stream(asked("swapped", "soup"))
        pieces += stream
        wait_until_nothing_is_held(server, "swapped")
    assert (pieces[0].version, newer.version) == (1, 2)
    told = put_together(pieces)
    assert [untimed(told[index]) for index in range(len(whole))] == list(map(untimed, whole))
