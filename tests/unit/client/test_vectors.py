"""Vectors off the wire, with numpy and without."""

from __future__ import annotations

import struct
import subprocess
import sys

import numpy as np
import pytest
from headwaiter import Vectors
from headwaiter.vectors import unpack

NUMBERS = [[1.5, -2.0, 0.25], [3.0, 1e-30, -0.0]]
PACKED = struct.pack("<6f", *NUMBERS[0], *NUMBERS[1])


def test_with_numpy_vectors_are_an_array() -> None:
    """A float32 array that shares the message's bytes, and so cannot be written to."""
    vectors = unpack(PACKED, 3)
    assert isinstance(vectors, np.ndarray)
    assert (vectors.dtype, vectors.shape) == (np.float32, (2, 3))
    assert not vectors.flags.writeable
    assert vectors.tolist() == np.array(NUMBERS, np.float32).tolist()


def test_without_numpy_vectors_are_a_sequence() -> None:
    """Indices, slices, iteration and numbers work without numpy."""
    vectors = Vectors(PACKED, 3)
    assert (len(vectors), vectors.shape) == (2, (2, 3))
    assert vectors.tolist() == np.array(NUMBERS, np.float32).tolist()
    assert vectors[-1].tolist() == vectors.tolist()[1]
    assert vectors[0][2] == 0.25
    assert [vector.tolist() for vector in vectors[::-1]] == vectors.tolist()[::-1]
    with pytest.raises(IndexError):
        vectors[2]
    with pytest.raises(TypeError):
        vectors[0][0] = 1
    np.testing.assert_array_equal(np.asarray(vectors), unpack(PACKED, 3))
    assert len(Vectors(b"", 3)) == 0


@pytest.mark.parametrize(("packed", "dimension"), [(b"1234", 3), (b"12345", 1), (b"1234", 0)])
def test_half_a_vector_is_none(packed: bytes, dimension: int) -> None:
    """Bytes that are no whole vectors are noticed, either way."""
    for read in (unpack, Vectors):
        with pytest.raises(ValueError, match=r"no vectors|buffer size|reshape"):
            read(packed, dimension)


def test_a_process_without_numpy_gets_vectors() -> None:
    """Where numpy cannot be imported, replies hold `Vectors`."""
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'numpy' else find(name, *rest)\n"
        "from headwaiter.vectors import unpack\n"
        f"print(unpack({PACKED!r}, 3), 'numpy' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "Vectors(shape=(2, 3)) False"
