"""Drawing a token by its probability: temperature, top-k and top-p, without putting a vocabulary in order."""

from __future__ import annotations

import hashlib
import struct
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from headwaiter_server.generation.decoding import Decoding
from headwaiter_server.model.contract import FloatArray, IntArray

_Weights: TypeAlias = NDArray[np.float64]

# Logits that are looked at as one, to find the largest without putting all in order.
_GROUP = 64
# Weights that are summed up as one, to find where a sum is reached without all the sums before it.
_BLOCK = 256
# Of a float64 the bits that stay of its fraction: numbers that differ in fewer count as one size at first.
_SIZE_BITS = 6
# So much less is compared with than was computed, lest rounding leaves out what is as large.
_ROUNDING = 1e-9


def drawn(scores: FloatArray, decoding: Decoding, number: int) -> int:
    """Draw a token: that at which the probabilities, summed up in the vocabulary's order, exceed a random number.

    Args:
        scores: Logits, `(vocab,)`, penalized already.
        decoding: With a temperature and a seed.
        number: How many were drawn before.
    """
    ids, weights = distribution(scores, decoding)
    place = _place(weights, _uniform(decoding.seed or 0, number))
    return place if ids is None else int(ids[place])


def distribution(scores: FloatArray, decoding: Decoding) -> tuple[IntArray | None, _Weights]:
    """How likely each token is to be drawn, by temperature, top-k and top-p.

    Args:
        scores: Logits, `(vocab,)`, penalized already.
        decoding: With a temperature.

    Returns:
        Tokens, ascending, or None for all of them; and weights, the probabilities times any number.
    """
    ids: IntArray | None = None
    if 0 < decoding.top_k < len(scores):
        ids = likeliest(scores, decoding.top_k)
        scores = scores[ids]
    weights = scores.astype(np.float64)
    weights -= weights.max()
    with np.errstate(over="ignore"):  # to minus infinity, of which nothing is left
        weights /= decoding.temperature
    np.exp(weights, out=weights)
    if decoding.top_p < 1.0:
        _keep_nucleus(weights, decoding.top_p)
    return ids, weights


def _keep_nucleus(weights: _Weights, top_p: float) -> None:
    """Make weights 0 but for the fewest that have `top_p` of all the weight; of equal ones the first stay."""
    total = float(weights.sum())
    # All that weigh no more than this have less than what may be left out, together.
    floor = total * (1.0 - top_p) / len(weights) * (1.0 - _ROUNDING)
    places = np.flatnonzero(weights > floor)
    if len(places) * 2 > len(weights):
        _keep_heaviest(weights, floor, top_p * total)
        return
    heavy = weights[places]
    _keep_heaviest(heavy, floor, top_p * total)
    weights.fill(0.0)
    weights[places] = heavy


def _keep_heaviest(weights: _Weights, floor: float, wanted: float) -> None:
    """Make weights 0 but for the fewest that are `wanted` together, none of which is as small as `floor`."""
    # By their sizes first, for which they need not be in order; then those of the size at which it is reached.
    sizes = _sizes(weights)
    sizes -= _sizes(np.array([floor]))
    np.maximum(sizes, 0, out=sizes)
    reached = np.bincount(sizes, weights)[::-1].cumsum()
    last = min(int(reached.searchsorted(wanted)), len(reached) - 1)
    size = len(reached) - 1 - last
    at_size = np.flatnonzero(sizes == size)
    order = at_size[np.argsort(-weights[at_size], kind="stable")]
    before = reached[last - 1] if last else 0.0
    needed = int((before + weights[order].cumsum()).searchsorted(wanted)) + 1
    weights *= sizes >= size
    weights[order[needed:]] = 0.0


def _sizes(weights: _Weights) -> IntArray:
    """Numbers that grow with the weights: their exponents and the first bits of their fractions."""
    return weights.view(np.int64) >> (52 - _SIZE_BITS)


def _place(weights: _Weights, uniform: float) -> int:
    """The first place up to which there is more than `uniform` of all the weight."""
    whole = len(weights) // _BLOCK * _BLOCK
    sums = np.append(weights[:whole].reshape(-1, _BLOCK).sum(axis=1), weights[whole:].sum()).cumsum()
    wanted = min(uniform * sums[-1], np.nextafter(sums[-1], 0.0))
    block = int(sums.searchsorted(wanted, side="right"))
    start = block * _BLOCK
    within = weights[start : start + _BLOCK]
    before = sums[block - 1] if block else 0.0
    place = int(within.cumsum().searchsorted(wanted - before, side="right"))
    if place == len(within):  # by rounding: the sum of a block is not computed in the order of its weights
        place = int(np.flatnonzero(within)[-1])
    return start + place


def likeliest(scores: FloatArray, count: int) -> IntArray:
    """Which scores are the largest, ascending; more than `count`, at least 1, if several are as large as the last."""
    size = len(scores)
    if count >= size:
        return np.arange(size)
    places: IntArray | None = None
    groups = size // _GROUP
    if groups > 2 * count:
        # Of `count` groups the largest is at least this much, and so are the `count` largest of all.
        maxima = scores[: groups * _GROUP].reshape(_GROUP, groups).max(axis=0)
        places = np.flatnonzero(scores >= _nth_largest(maxima, count))
        scores = scores[places]
    largest = np.flatnonzero(scores >= _nth_largest(scores, count))
    return largest if places is None else places[largest]


def _nth_largest(values: NDArray[np.floating], n: int) -> np.floating:
    place = len(values) - n
    largest: np.floating = np.partition(values, place)[place]
    return largest


def _uniform(seed: int, number: int) -> float:
    """A number from 0 up to but not 1, evenly spread, a function of the seed and of the number of the token."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed, number), digest_size=8).digest()
    return float(int.from_bytes(digest, "little") >> 11) * 2.0**-53
