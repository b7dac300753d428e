"""What is generated: prompts and how many tokens follow them, the same ones every time; pure, but for the file.

Lengths are taken at evenly spaced quantiles instead of at random, so that few requests have the same distribution as
many; which prompt has which continuation, and in which order they come, is drawn by a seeded generator.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

_SEED = 20_17
# Of the decoder that is measured.
POSITIONS = 1024
VOCABULARY = 8192
# Unknown and beginning are one; the end, which also pads. Tokenizers find these in the middle of other words, too.
SPECIAL_WORDS = ("<beginning>", "<end>")


def word(token: int) -> str:
    """The word of a token."""
    return SPECIAL_WORDS[token] if token < len(SPECIAL_WORDS) else f"w{token}"


def words() -> list[str]:
    """The vocabulary, by token."""
    return [word(token) for token in range(VOCABULARY)]


@dataclass(frozen=True)
class Request:
    """One call.

    Attributes:
        text: What is gone on with, or put into another language.
        prompt_tokens: Its length.
        new_tokens: How many tokens are generated; 0 where the model ends by itself.
    """

    text: str
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class LogNormal:
    """Lengths in tokens.

    Attributes:
        median: Half of them are shorter.
        sigma: Of the logarithm.
        longest: Longer ones are cut to this.
    """

    median: float
    sigma: float
    longest: int

    def lengths(self, count: int) -> list[int]:
        """The middles of `count` equally likely stretches, shortest first."""
        normal = NormalDist(math.log(self.median), self.sigma)
        exact = (math.exp(normal.inv_cdf((index + 0.5) / count)) for index in range(count))
        return [min(max(round(length), 1), self.longest) for length in exact]


PROMPTS = LogNormal(median=64, sigma=0.8, longest=512)
CONTINUATIONS = LogNormal(median=48, sigma=0.8, longest=400)


def random_request(generator: random.Random, prompt_tokens: int, new_tokens: int) -> Request:
    """A prompt of random words."""
    chosen = (generator.randrange(len(SPECIAL_WORDS), VOCABULARY) for _ in range(prompt_tokens))
    return Request(" ".join(map(word, chosen)), prompt_tokens, new_tokens)


def decoder_requests(count: int) -> list[Request]:
    """Prompts and continuations of log-normal lengths, which have nothing to do with each other."""
    generator = random.Random(_SEED)
    prompts, continuations = PROMPTS.lengths(count), CONTINUATIONS.lengths(count)
    generator.shuffle(prompts)
    generator.shuffle(continuations)
    return [random_request(generator, *lengths) for lengths in zip(prompts, continuations, strict=True)]


def pronounce_requests(words: list[str]) -> list[Request]:
    """A word, a call; what is generated ends by itself."""
    return [Request(each, len(each), 0) for each in words]


def write_requests(path: Path, requests: list[Request]) -> None:
    """Write requests for the processes that send or run them."""
    path.write_text(json.dumps([asdict(each) for each in requests]))


def read_requests(path: Path, order: int) -> list[Request]:
    """Read them again.

    Args:
        path: What `write_requests` wrote.
        order: Another number, another order.
    """
    requests = [Request(**each) for each in json.loads(path.read_text())]
    random.Random(order).shuffle(requests)
    return requests
