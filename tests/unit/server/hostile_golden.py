"""Damage to golden files: archives and arrays."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .hostile_places import Mutation

if TYPE_CHECKING:
    from .hostile_bundles import Draft

_GOLDEN = "golden.npz"


def _arrays(draft: Draft) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(draft.files[_GOLDEN]), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _keep(draft: Draft, arrays: dict[str, NDArray[Any]]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **arrays)
    draft.files[_GOLDEN] = buffer.getvalue()


def _archive(draft: Draft, entries: dict[str, bytes]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    draft.files[_GOLDEN] = buffer.getvalue()


def _header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def numbers_changed(rng: Random, draft: Draft) -> None:
    arrays = _arrays(draft)
    name = rng.choice([name for name in sorted(arrays) if arrays[name].dtype.kind in "if"])
    values = arrays[name].copy()
    values.flat[rng.randrange(min(values.size, 64))] = rng.choice([-1, 0, 1 << 30, -(1 << 31)])
    arrays[name] = values
    _keep(draft, arrays)


def not_numbers(rng: Random, draft: Draft) -> None:
    arrays = _arrays(draft)
    name = rng.choice([name for name in sorted(arrays) if arrays[name].dtype.kind == "f"])
    arrays[name] = np.full_like(arrays[name], rng.choice([np.nan, np.inf]))
    _keep(draft, arrays)


def other_type(rng: Random, draft: Draft) -> None:
    arrays = _arrays(draft)
    name = rng.choice(sorted(arrays))
    kind = rng.choice([np.float64, np.int8, np.complex64, np.str_, np.bool_])
    arrays[name] = np.zeros(arrays[name].shape, kind)
    _keep(draft, arrays)


def other_shape(rng: Random, draft: Draft) -> None:
    arrays = _arrays(draft)
    name = rng.choice(sorted(arrays))
    values = np.atleast_1d(arrays[name])
    arrays[name] = rng.choice([values[:0], values[:1], values.ravel(), values[None], np.array(0, values.dtype)])
    _keep(draft, arrays)


def array_left_out(rng: Random, draft: Draft) -> None:
    arrays = _arrays(draft)
    del arrays[rng.choice(sorted(arrays))]
    _keep(draft, arrays)


def lengths_beyond(rng: Random, draft: Draft) -> None:
    arrays = _arrays(draft)
    name = "lengths" if "lengths" in arrays else "source_lengths"
    arrays[name] = np.full_like(arrays[name], rng.choice([-1, 0, 1 << 20, 1 << 40]))
    _keep(draft, arrays)


def objects(rng: Random, draft: Draft) -> None:
    """What would run code if it were unpickled."""
    arrays = _arrays(draft)
    arrays[rng.choice(sorted(arrays))] = np.array([{"a": 1}, None], dtype=object)
    _keep(draft, arrays)


def a_pickle(rng: Random, draft: Draft) -> None:
    draft.files[_GOLDEN] = rng.choice([pickle.dumps({"a": [1] * 100}), b"cos\nsystem\n(S'true'\ntR."])


def bomb(rng: Random, draft: Draft) -> None:
    """A megabyte or so that unfolds to as much as nobody wants."""
    draft.files[_GOLDEN] = _zeros(tuple(sorted(_arrays(draft))), rng.choice([64, 1100]))


@cache
def _zeros(names: Sequence[str], size_mib: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in names[:-1]:
            archive.writestr(f"{name}.npy", _header("(1, 1)") + b"\0" * 4)
        with archive.open(f"{names[-1]}.npy", "w", force_zip64=True) as entry:
            entry.write(_header(f"({size_mib << 18},)"))
            for _ in range(size_mib):
                entry.write(bytes(1 << 20))
    return buffer.getvalue()


def lying_header(rng: Random, draft: Draft) -> None:
    shape = rng.choice(["(1000000000000,)", "(-1,)", "(2, 3", "(1000000, 1000000, 1000000)", "(" * 100, "()", "'x'"])
    names = sorted(_arrays(draft))
    _archive(draft, {f"{name}.npy": _header(shape, rng.choice(["<f4", "|O", "V9999999", "x"])) for name in names})


def entries_twice(rng: Random, draft: Draft) -> None:
    content = draft.files[_GOLDEN]
    draft.files[_GOLDEN] = rng.choice([content + content, b"MZ" * 500 + content, content[:-22]])


GOLDEN_MUTATIONS: Sequence[Mutation] = [
    numbers_changed,
    not_numbers,
    other_type,
    other_shape,
    array_left_out,
    lengths_beyond,
    objects,
    a_pickle,
    bomb,
    lying_header,
    entries_twice,
]
