"""The main job over a real socket: text in, the trained model's answer out, whoever else is in the batch."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import numpy as np
import pytest
from headwaiter import AsyncClient, Client, FinishReason, HealthStatus
from tokenizers import Tokenizer

from .process import ServerProcess

IN_FLIGHT = 'headwaiter_requests_in_flight{method="headwaiter.v1.InferenceService/Generate"}'
STARTED = 'headwaiter_requests_started_total{method="headwaiter.v1.InferenceService/Generate"}'
WAITING = 'headwaiter_queue_depth{model="pronounce"}'

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def golden(models_dir: Path) -> list[tuple[str, list[int]]]:
    """Texts of the bundle's golden file with the tokens that the exporting machine generated."""
    folder = models_dir / "pronounce" / "1"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    eos_id = tokenizer.token_to_id("</s>")
    with np.load(folder / "golden.npz", allow_pickle=False) as arrays:
        rows = zip(arrays["source_ids"], arrays["source_lengths"], arrays["tokens"], strict=True)
        return [
            (
                tokenizer.decode(source[:length].tolist()).replace(" ", ""),
                tokens.tolist()[: tokens.tolist().index(eos_id)],
            )
            for source, length, tokens in rows
            if eos_id in tokens
        ]


def test_golden_words_come_out_as_exported(server: ServerProcess, golden: list[tuple[str, list[int]]]) -> None:
    """The server gives exactly the tokens that PyTorch gave when the model was exported."""
    with Client(server.grpc) as client:
        reply = client.generate([word for word, _ in golden])
    assert len(golden) >= 8
    assert [list(each.token_ids) for each in reply.generations] == [tokens for _, tokens in golden]
    assert (reply.model, reply.version, reply.variant) == ("pronounce", 1, "fp32")


def test_known_word_is_pronounced(server: ServerProcess) -> None:
    """A common word comes out as ARPAbet."""
    with Client(server.grpc) as client:
        (generation,) = client.generate("station").generations
    assert generation.text == "S T EY1 SH AH0 N"
    assert generation.finish_reason is FinishReason.END_OF_SEQUENCE


async def until(server: ServerProcess, name: str, least: float) -> None:
    """Wait until a metric has so much; the test's own time limit ends it."""
    while (await asyncio.to_thread(server.scrape))[name] < least:
        await asyncio.sleep(0.01)


async def test_batch_mates_never_change_an_answer(server: ServerProcess) -> None:
    """Words alone, in one call, and in many concurrent calls of random company have the same answers."""
    dice = random.Random(7)
    words = ["".join(dice.choices(ALPHABET, k=dice.choice([1, 2, 5, 8, 13, 30]))) for _ in range(60)]
    async with AsyncClient(server.grpc, timeout_seconds=60) as client:
        alone = [(await client.generate(word)).generations[0].text for word in words]
        together = [each.text for each in (await client.generate(words)).generations]
        shuffled = dice.sample(words * 3, k=len(words) * 3)
        before = (await asyncio.to_thread(server.scrape))[STARTED]
        # Keeps the workers until all of the crowd are there: else each might be answered before the next one comes.
        first = asyncio.create_task(client.generate(["ab" * 30] * 1000))
        await until(server, WAITING, 1)
        calls = [asyncio.create_task(client.generate(word)) for word in shuffled]
        await until(server, STARTED, before + 1 + len(calls))
        first.cancel()
        crowd = await asyncio.gather(*calls)
    assert together == alone
    expected = dict(zip(words, alone, strict=True))
    assert [reply.generations[0].text for reply in crowd] == [expected[word] for word in shuffled]
    assert max(reply.timings.batch_size for reply in crowd) > 1


@pytest.mark.parametrize("word", ["a", "z", "supercalifragilisticexpialidocious", "ab" * 30])
def test_shortest_and_longest_words(server: ServerProcess, word: str) -> None:
    """A word of one letter and one of sixty are answered."""
    with Client(server.grpc) as client:
        (generation,) = client.generate(word).generations
    assert generation.text
    assert generation.source_tokens == len(word) + 1


def test_limit_of_new_tokens_is_kept(server: ServerProcess) -> None:
    """A caller's limit cuts the generation short and says so."""
    with Client(server.grpc) as client:
        (generation,) = client.generate("onomatopoeia", max_new_tokens=3).generations
    assert len(generation.token_ids) == 3
    assert generation.finish_reason is FinishReason.LENGTH


def test_timings_add_up(server: ServerProcess) -> None:
    """The parts of a call's time are positive and no more than its total."""
    with Client(server.grpc) as client:
        timings = client.generate(["timing", "words"]).timings
    assert 0 < timings.tokenize_seconds < timings.total_seconds
    assert 0 < timings.inference_seconds < timings.total_seconds
    parts = timings.tokenize_seconds + timings.queue_seconds + timings.inference_seconds
    assert parts <= timings.total_seconds + 1e-6
    assert timings.batch_id > 0


def test_models_are_listed_and_described(server: ServerProcess) -> None:
    """Model information names the model, what it does and its limits."""
    with Client(server.grpc) as client:
        (listed,) = client.models()
        assert client.model("pronounce") == listed
    assert (listed.name, listed.version, listed.architecture) == ("pronounce", 1, "headwaiter-transformer")
    assert listed.limits.max_source_tokens > 60


def test_health_of_server_and_model(server: ServerProcess) -> None:
    """Health answers for the whole server and for each model by name."""
    with Client(server.grpc) as client:
        assert client.health() is HealthStatus.SERVING
        assert client.health("pronounce") is HealthStatus.SERVING


def test_ready_line_names_models(server: ServerProcess) -> None:
    """The line on stdout names every model with its version."""
    assert server.models == "pronounce:1"


def test_metrics_count_what_the_client_saw(models_dir: Path) -> None:
    """After a known number of calls, the counters and histograms say exactly that number."""
    from .process import running_server  # noqa: PLC0415 - a server of its own, so that counts are known

    with running_server("--models", str(models_dir), "--lame-duck-seconds", "0") as own, Client(own.grpc) as client:
        for _ in range(7):
            client.generate(["one", "two", "three"])
        for _ in range(2):
            with pytest.raises(Exception, match="texts"):
                client.generate("")
        # A refusal reaches its caller before it is recorded.
        while (values := own.scrape())[IN_FLIGHT]:
            pass
    labels = 'method="headwaiter.v1.InferenceService/Generate",model="pronounce"'
    assert values[f'headwaiter_requests_total{{code="OK",{labels},version="1"}}'] == 7
    assert values[f'headwaiter_requests_total{{code="INVALID_ARGUMENT",{labels},version="1"}}'] == 2
    assert values[f"headwaiter_request_duration_seconds_count{{{labels}}}"] == 9
    for name in ("queue", "tokenize", "inference"):
        assert values[f'headwaiter_{name}_duration_seconds_count{{model="pronounce"}}'] == 7
    assert values['headwaiter_texts_total{model="pronounce"}'] == 21
    assert (
        values['headwaiter_batch_size_sum{model="pronounce"}']
        > values['headwaiter_batch_size_count{model="pronounce"}']
    )
    assert values['headwaiter_queue_depth{model="pronounce"}'] == 0
    assert values['headwaiter_tokens_total{direction="source",model="pronounce"}'] == 7 * (4 + 4 + 6)
