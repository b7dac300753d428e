"""Texts out of common words, of any wanted distribution of lengths."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from headwaiter_load.errors import BadInputError

DEFAULT_LENGTHS: Final = "lognormal:12,0.6"
_LONGEST: Final = 100_000

# Short and frequent: most vocabularies hold each as one token, so that words count about as many tokens.
_WORDS: Final = """
the of and to in is was for that on with as by at from his it an were are which this be or had first one their its new
after who they two her she been other when time during there into all school some years most over only city state work
where more many people made about used later under them would area year then between such up three may world part out
name him no both against early well game life war being number became system since while house second water long known
great south north any high home called power group end book set play large day line often small land back public law
left young place music old point company field order best form common record women air now light few next show main
another story open even local song same season town road king good came river center short sea hand case night church
father family language paper white black green red blue garden window morning winter summer bridge letter answer
question history science doctor market village station island forest mountain ship train engine machine voice child
teacher student friend soldier captain minister president council court office army battle peace treaty
""".split()  # noqa: SIM905 - a list of two hundred literals reads worse


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of lengths in words.

    Attributes:
        kind: "fixed", "uniform" or "lognormal".
        first: The length; the shortest; the median.
        second: Of "uniform" the longest; of "lognormal" the standard deviation of the logarithm.
    """

    kind: str
    first: float
    second: float = 0.0

    @classmethod
    def parsed(cls, text: str) -> Lengths:
        """From `fixed:N`, `uniform:LOW-HIGH` or `lognormal:MEDIAN,SIGMA`.

        Raises:
            BadInputError: It is none of these, or a length is not from 1 to 100,000.
        """
        number = r"(\d+(?:\.\d+)?)"
        patterns = {"fixed": r"(\d+)", "uniform": r"(\d+)-(\d+)", "lognormal": f"{number},{number}"}
        kind, _, arguments = text.partition(":")
        match = re.fullmatch(patterns[kind], arguments) if kind in patterns else None
        if match is None:
            raise BadInputError(f"{text!r} is none of fixed:N, uniform:LOW-HIGH, lognormal:MEDIAN,SIGMA")
        first, second = (*map(float, match.groups()), 0.0)[:2]
        longest = max(first, second) if kind == "uniform" else first
        if not 1 <= first <= longest <= _LONGEST or (kind == "uniform" and first > second):
            raise BadInputError(f"{text!r}: lengths go from 1 to {_LONGEST:,}, the smaller one first")
        return cls(kind, first, second)

    def draw(self, dice: random.Random) -> int:
        """One length."""
        if self.kind == "fixed":
            return int(self.first)
        if self.kind == "uniform":
            return dice.randint(int(self.first), int(self.second))
        return min(max(1, round(dice.lognormvariate(math.log(self.first), self.second))), _LONGEST)


def text_of(length: int, dice: random.Random) -> str:
    """A text of so many words."""
    return " ".join(dice.choices(_WORDS, k=length))


def texts(lengths: Lengths, seed: int) -> Iterator[str]:
    """Texts without end, the same for the same seed."""
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    while True:
        yield text_of(lengths.draw(dice), dice)
