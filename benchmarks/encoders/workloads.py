"""The three workloads: real texts, drawn so that their lengths follow a given distribution.

Lengths are taken at evenly spaced quantiles instead of at random, so that few texts have the same distribution as many;
which texts have these lengths, and their order, comes from a seeded generator.
"""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

_SEED = 20_17
# The model's own limit is 256; with less than this there is no sentence.
_SHORTEST, _LONGEST = 5, 256
_UNIFORM_TOKENS = 32


@dataclass(frozen=True)
class LogNormal:
    """Lengths in tokens, special tokens included.

    Attributes:
        mean: Their mean.
        quantile: Which share of them is no longer than `tokens`.
        tokens: See there.
    """

    mean: float
    quantile: float
    tokens: float

    def lengths(self, count: int) -> list[int]:
        """The middles of `count` equally likely stretches, shortest first."""
        normal = NormalDist()
        z = normal.inv_cdf(self.quantile)
        # mean = exp(mu + sigma^2 / 2) and tokens = exp(mu + z sigma), solved for sigma.
        sigma = z - math.sqrt(z * z - 2 * math.log(self.tokens / self.mean))
        mu = math.log(self.mean) - sigma * sigma / 2
        exact = (math.exp(mu + sigma * normal.inv_cdf((i + 0.5) / count)) for i in range(count))
        return [min(max(round(length), _SHORTEST), _LONGEST) for length in exact]


SHORT = LogNormal(mean=15, quantile=0.99, tokens=45)
# A quarter of the mixed texts: 3/4 x 15 + 1/4 x 95 = 35, and one in a hundred of all is four in a hundred of these.
LONG = LogNormal(mean=95, quantile=0.96, tokens=210)


@dataclass(frozen=True)
class Text:
    """A text and how many tokens the model reads, special tokens included."""

    text: str
    tokens: int


class Passages:
    """Sentences, and stretches of sentences that follow one another, by their length."""

    def __init__(self, documents: Sequence[Sequence[str]], count_tokens: Callable[[Sequence[str]], list[int]]) -> None:
        """Measure all sentences.

        Args:
            documents: Sentences in the order of each text.
            count_tokens: Tokens of each text, special tokens included.
        """
        self._special_tokens = count_tokens([""])[0]
        self._sentences: dict[int, list[str]] = defaultdict(list)
        self._stretches: dict[int, list[Sequence[str]]] = defaultdict(list)
        for document in documents:
            # Tokens never reach across white space, so a stretch has the tokens of its sentences.
            own = [count - self._special_tokens for count in count_tokens(document)]
            for first in range(len(document)):
                self._add_from(document, own, first)

    def _add_from(self, document: Sequence[str], own: Sequence[int], first: int) -> None:
        tokens = self._special_tokens
        for last in range(first, len(document)):
            tokens += own[last]
            if tokens > _LONGEST:
                return
            self._stretches[tokens].append(document[first : last + 1])
            if last == first:
                self._sentences[tokens].append(document[first])

    def sentences(self, lengths: Sequence[int], generator: random.Random) -> list[Text]:
        """A single sentence of each length, or of the nearest length there is."""
        return list(_draw(self._sentences, lengths, generator))

    def stretches(self, lengths: Sequence[int], generator: random.Random) -> list[Text]:
        """Consecutive sentences of each length, or of the nearest length there is."""
        joined = {tokens: [" ".join(each) for each in found] for tokens, found in self._stretches.items()}
        return list(_draw(joined, lengths, generator))


def _draw(pool: dict[int, list[str]], lengths: Sequence[int], generator: random.Random) -> Iterator[Text]:
    # Each text once before any a second time.
    shuffled = {tokens: generator.sample(texts, len(texts)) for tokens, texts in sorted(pool.items())}
    drawn: dict[int, int] = defaultdict(int)
    for length in lengths:
        tokens = min(shuffled, key=lambda each: (abs(each - length), each))
        texts = shuffled[tokens]
        yield Text(texts[drawn[tokens] % len(texts)], tokens)
        drawn[tokens] += 1


def build_workloads(passages: Passages, counts: dict[str, int]) -> dict[str, list[Text]]:
    """The workloads, the same ones every time.

    Args:
        passages: What they are drawn from.
        counts: How many texts of "short", "mixed" and "uniform".
    """
    generator = random.Random(_SEED)
    long = counts["mixed"] // 4
    workloads = {
        "short": passages.sentences(SHORT.lengths(counts["short"]), generator),
        "mixed": [
            *passages.sentences(SHORT.lengths(counts["mixed"] - long), generator),
            *passages.stretches(LONG.lengths(long), generator),
        ],
        "uniform": passages.stretches([_UNIFORM_TOKENS] * counts["uniform"], generator),
    }
    for texts in workloads.values():
        generator.shuffle(texts)
    return workloads


def write_workloads(path: Path, workloads: dict[str, list[Text]]) -> None:
    """Write texts for the processes that send or run them."""
    path.write_text(
        json.dumps({name: [[each.text, each.tokens] for each in texts] for name, texts in workloads.items()})
    )


def read_workload(path: Path, name: str, order: int) -> list[str]:
    """One workload's texts.

    Args:
        path: What `write_workloads` wrote.
        name: Of the workload.
        order: Another number, another order.
    """
    texts = [text for text, _ in json.loads(path.read_text())[name]]
    random.Random(order).shuffle(texts)
    return texts
