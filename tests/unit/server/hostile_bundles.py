"""Bundles damaged in every way that one can think of, the same ones for the same seed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .hostile_golden import GOLDEN_MUTATIONS
from .hostile_graphs import GRAPH_MUTATIONS, SLOW_MUTATIONS
from .hostile_manifests import MANIFEST_MUTATIONS
from .hostile_places import BYTE_MUTATIONS, PLACE_MUTATIONS
from .hostile_tokenizers import TOKENIZER_MUTATIONS

MANIFEST = "manifest.json"
# With how many of a hundred bundles are theirs.
_GROUPS = [
    (GRAPH_MUTATIONS, 29),
    (BYTE_MUTATIONS, 20),
    (PLACE_MUTATIONS, 10),
    (MANIFEST_MUTATIONS, 18),
    (GOLDEN_MUTATIONS, 11),
    (TOKENIZER_MUTATIONS, 11),
    (SLOW_MUTATIONS, 1),
]


@dataclass(frozen=True)
class Hostile:
    """One damaged bundle.

    Attributes:
        number: Of the bundle.
        kind: What was done to it.
        rehashed: Whether the manifest lists what its files hold now, so that only loading them shows the damage.
    """

    number: int
    kind: str
    rehashed: bool


@dataclass
class Draft:
    """A bundle while it is being damaged; see `mutations`.

    Attributes:
        files: Contents of its files but the manifest.
        manifest: The manifest, parsed.
        entries: What it says of each file.
        manifest_bytes: What is written in its place, if not None.
        places: What is made instead of a file, by its name; called with the path.
        kept: What the manifest says of files, where that is wrong on purpose.
    """

    files: dict[str, bytes]
    manifest: dict[str, Any]
    entries: list[dict[str, Any]]
    manifest_bytes: bytes | None = None
    places: dict[str, Callable[[Path], Any]] = field(default_factory=dict)
    kept: list[dict[str, Any]] = field(default_factory=list)

    def entry(self, rng: random.Random) -> dict[str, Any]:
        """What the manifest says of some file, to be made wrong."""
        entry = rng.choice(self.entries)
        self.kept.append(entry)
        return entry

    def rehash(self) -> None:
        """Have the manifest list the files as they are now."""
        for entry in self.entries:
            name = entry.get("name")
            wrong = not isinstance(name, str) or name in self.places or any(entry is each for each in self.kept)
            if not wrong and name in self.files:
                entry["sha256"] = hashlib.sha256(self.files[name]).hexdigest()
                entry["sizeBytes"] = str(len(self.files[name]))


def read_draft(bundle: Path) -> Draft:
    """A whole bundle, as it lies on disk."""
    files = {path.name: path.read_bytes() for path in bundle.iterdir() if path.name != MANIFEST}
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    graphs = [graph for variant in manifest["variants"] for graph in variant["graphs"]]
    return Draft(files, manifest, [*(graph["file"] for graph in graphs), *manifest["files"]])


class Hostiles:
    """Makes damaged bundles out of whole ones."""

    def __init__(self, bundles: Mapping[str, Path], seed: int) -> None:
        """Begin.

        Args:
            bundles: Whole bundles, by name.
            seed: The same seed and number give the same bundle.
        """
        self._bundles = dict(sorted(bundles.items()))
        self._seed = seed

    def write(self, number: int, folder: Path) -> Hostile:
        """Write one of them.

        Args:
            number: Which.
            folder: Where its files go; must not exist.
        """
        rng = random.Random(f"{self._seed}/{number}")
        name = list(self._bundles)[number // 2 % len(self._bundles)]
        # Every second one is a bundle whose digests are right.
        rehashed = number % 2 == 1
        while True:  # some of what is done at random changes nothing
            whole, draft = (read_draft(self._bundles[name]) for _ in range(2))
            (group,) = rng.choices([each for each, _ in _GROUPS], [weight for _, weight in _GROUPS])
            mutation = rng.choice(group)
            mutation(rng, draft)
            if draft != whole:
                break
        if rehashed:
            draft.rehash()
        _write(draft, folder)
        return Hostile(number, f"{name}: {mutation.__name__.replace('_', ' ')}", rehashed)


def _write(draft: Draft, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, content in draft.files.items():
        if name in draft.places:
            draft.places[name](folder / name)
        else:
            (folder / name).write_bytes(content)
    manifest = draft.manifest_bytes
    if manifest is None:
        manifest = json.dumps(draft.manifest).encode("utf-8", "surrogatepass")
    if MANIFEST in draft.places:
        draft.places[MANIFEST](folder / MANIFEST)
    else:
        (folder / MANIFEST).write_bytes(manifest)


def remove(folder: Path) -> None:
    """Remove a damaged bundle, whatever lies there."""
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_dir():
            os.unlink(path)  # noqa: PTH108 - also what is no file
    shutil.rmtree(folder)
