"""`headwaiter explain` against real servers, whatever their models do."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from .process import ServerProcess, environment

COMMAND = [sys.executable, "-c", "from headwaiter.cli import main; main()", "explain"]


def explain(target: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [*COMMAND, *arguments, "--json", "--target", target],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def check(told: dict[str, Any], *, calls: int) -> None:
    """What must hold of every explanation."""
    assert len(told["each"]) == told["calls"] == calls
    for each in told["each"]:
        server = each["tokenize_seconds"] + each["queue_seconds"] + each["inference_seconds"]
        assert 0 < server <= each["total_seconds"] < each["client_seconds"]
        assert (each["batch_size"] >= 1, each["batch_id"] >= 1) == (True, True)
    assert len({each["batch_id"] for each in told["each"]}) == calls


def test_text_to_generate_from(server: ServerProcess) -> None:
    """Its letters, what became of it, and the time of each call."""
    told = explain(server.grpc, "word", "--repeat", "3")
    check(told, calls=3)
    assert told["tokens"] == [*"word", "</s>"]
    assert told["read_tokens"] == len(told["tokens"])
    assert told["answer"] == "'W ER1 D', 3 tokens"
    assert 0 < told["first_token_seconds"] < told["each"][-1]["total_seconds"]
    assert told["seconds_between_tokens"] > 0
    assert explain(server.grpc, "word", "--max-new-tokens", "1")["answer"] == "'W', 1 token"


def test_what_generated_tokens_attended_to(server: ServerProcess) -> None:
    """A row for each of them, over all the tokens that the model read."""
    told = explain(server.grpc, "word", "--attention")["attention"]
    assert (told["source_tokens"], told["tokens"]) == ([*"word", "</s>"], ["W", "ER1", "D"])
    assert [len(row) for row in told["weights"]] == [5, 5, 5]
    assert [sum(row) for row in told["weights"]] == pytest.approx([1, 1, 1], abs=1e-5)
    assert min(told["layers"], told["heads"]) >= 1


@pytest.mark.torch
@pytest.mark.parametrize(
    ("task", "options", "more_tokens"),
    [
        ("embed", ["--prompt", "query"], 0),
        ("classify", [], 0),
        ("classify", ["--second-text", "the fire"], 3),
        ("tag", ["--truncate"], 0),
        ("rerank", ["--query", "the note"], 3),
    ],
)
def test_text_for_an_encoder(encoder_server: ServerProcess, task: str, options: list[str], more_tokens: int) -> None:
    """Its tokens with the model's prompt, and what the model read beyond them: two words and a separator."""
    told = explain(encoder_server.grpc, "Ada read", "--model", task, *options)
    check(told, calls=1)
    prompt = ["query", ":"] if "--prompt" in options else []
    assert told["tokens"] == ["[CLS]", *prompt, "ada", "read", "[SEP]"]
    assert told["read_tokens"] == len(told["tokens"]) + more_tokens
    assert told["each"][0]["batch_tokens"] >= told["read_tokens"]
