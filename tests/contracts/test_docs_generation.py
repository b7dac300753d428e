"""docs/generation.md explains every option there is, with the limits that hold."""

from __future__ import annotations

import re
from pathlib import Path

from headwaiter_proto.v1.inference_pb2 import GenerateRequest
from headwaiter_server.generation import decoding

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOT_OPTIONS = {"model", "version", "texts"}


def rows(page: str, heading: str) -> list[str]:
    """What the tables of a section name in their first column."""
    text = (DOCS / page).read_text().partition(f"\n{heading}\n")[2]
    section = re.split(r"^#", text, maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)


def test_every_option_is_explained() -> None:
    """The options are the fields of the request, in their order."""
    options = [field.name for field in GenerateRequest.DESCRIPTOR.fields if field.name not in NOT_OPTIONS]
    assert rows("generation.md", "## What can be asked") == options


def test_limits_are_those_that_hold() -> None:
    """The page says the numbers by which requests are refused."""
    (line,) = re.findall(r"^- Up to .*$", (DOCS / "generation.md").read_text(), flags=re.MULTILINE)
    assert [int(number) for number in re.findall(r"\d+", line)] == [
        decoding.MOST_BEAMS,
        decoding.MOST_STOPS,
        decoding.MOST_STOP_CHARACTERS,
        decoding.MOST_STOP_TOKEN_IDS,
        decoding.MOST_LOGPROBS,
    ]
