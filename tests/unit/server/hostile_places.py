"""Damage to bytes, whatever they mean, and to what lies where a file should."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .hostile_bundles import Draft

Mutation = Callable[[Random, "Draft"], None]

_SPARSE_BYTES = 100 << 30
_NAMES = ["../x", "..", ".", "", "/etc/passwd", "a\0b", "x" * 300, "sub/x", "manifest.json", "\ud800", "con\n", "~"]


def _any_file(rng: Random, draft: Draft) -> str:
    return rng.choice(sorted(draft.files))


def flipped_bits(rng: Random, draft: Draft) -> None:
    name = _any_file(rng, draft)
    content = bytearray(draft.files[name])
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    draft.files[name] = bytes(content)


def flipped_bits_at_the_start(rng: Random, draft: Draft) -> None:
    """Where the structure of a file is, rather than its numbers."""
    name = _any_file(rng, draft)
    content = bytearray(draft.files[name])
    for _ in range(rng.choice([1, 2, 8])):
        content[rng.randrange(min(len(content), 400))] ^= 1 << rng.randrange(8)
    draft.files[name] = bytes(content)


def cut_short(rng: Random, draft: Draft) -> None:
    name = _any_file(rng, draft)
    draft.files[name] = draft.files[name][: rng.randrange(len(draft.files[name]))]


def grown(rng: Random, draft: Draft) -> None:
    draft.files[_any_file(rng, draft)] += rng.choice([b"\0", b"\n", rng.randbytes(100)])


def block_of_noise(rng: Random, draft: Draft) -> None:
    name = _any_file(rng, draft)
    content = bytearray(draft.files[name])
    start, size = rng.randrange(len(content)), rng.choice([4, 64, 1024])
    content[start : start + size] = rng.choice([rng.randbytes(size), b"\0" * size, b"\xff" * size])
    draft.files[name] = bytes(content)


def nothing_but_noise(rng: Random, draft: Draft) -> None:
    draft.files[_any_file(rng, draft)] = rng.randbytes(rng.choice([1, 1000, 100_000]))


def files_swapped(rng: Random, draft: Draft) -> None:
    one, other = rng.sample(sorted(draft.files), 2)
    draft.files[one], draft.files[other] = draft.files[other], draft.files[one]


def wrong_hash(rng: Random, draft: Draft) -> None:
    entry = draft.entry(rng)
    entry["sha256"] = rng.choice(["", "0" * 64, entry["sha256"][::-1], entry["sha256"].upper(), entry["sha256"][:-1]])


def wrong_size(rng: Random, draft: Draft) -> None:
    entry = draft.entry(rng)
    entry["sizeBytes"] = rng.choice(["0", "-1", "1", str(1 << 62), str(1 << 70)])


def strange_name(rng: Random, draft: Draft) -> None:
    draft.entry(rng)["name"] = rng.choice(_NAMES)


def missing_file(rng: Random, draft: Draft) -> None:
    del draft.files[_any_file(rng, draft)]


def _placed(make: Callable[[Path], Any], name: str) -> Mutation:
    def mutation(rng: Random, draft: Draft) -> None:
        draft.places[rng.choice([*sorted(draft.files), "manifest.json"])] = make

    mutation.__name__ = name
    return mutation


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(_SPARSE_BYTES)


def endless_file(rng: Random, draft: Draft) -> None:
    """Of 100 GB, and listed so."""
    entry = draft.entry(rng)
    draft.places[entry["name"]] = _sparse
    entry["sizeBytes"] = str(_SPARSE_BYTES)


BYTE_MUTATIONS: Sequence[Mutation] = [
    flipped_bits,
    flipped_bits,
    flipped_bits_at_the_start,
    flipped_bits_at_the_start,
    cut_short,
    grown,
    block_of_noise,
    nothing_but_noise,
    files_swapped,
]
PLACE_MUTATIONS: Sequence[Mutation] = [
    wrong_hash,
    wrong_size,
    strange_name,
    missing_file,
    endless_file,
    _placed(lambda path: path.symlink_to("/etc/passwd"), "link_elsewhere"),
    _placed(lambda path: path.symlink_to(path.name), "link_to_itself"),
    _placed(lambda path: path.mkdir(), "folder_for_a_file"),
    _placed(os.mkfifo, "pipe_for_a_file"),
    _placed(_sparse, "sparse_file"),
]
