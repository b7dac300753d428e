"""Vectors off the wire, with numpy and without."""

from __future__ import annotations

import struct
import subprocess
import sys

import numpy as np
import pytest
from headwaiter import Vectors
from headwaiter.results import Attention
from headwaiter.vectors import unpack, unpack_array

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


@pytest.fixture(params=[True, False], ids=["numpy", "no numpy"])
def with_numpy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Where numpy is there, and where not."""
    if not request.param:
        monkeypatch.setattr("headwaiter.vectors._numpy", lambda: None)
    return bool(request.param)


def test_arrays_of_more_dimensions(*, with_numpy: bool) -> None:
    """Shape, numbers by their indices, lists, and no way to write: with numpy and without."""
    array = unpack_array(PACKED, (1, 3, 2))
    assert isinstance(array, np.ndarray) is with_numpy
    assert array.shape == (1, 3, 2)
    assert (array[0, 0, 0], array[0, 0, 1], array[0, 2, 0]) == (1.5, -2.0, np.float32(1e-30))
    assert array.tolist() == np.array(NUMBERS, np.float32).reshape(1, 3, 2).tolist()
    with pytest.raises((TypeError, ValueError)):
        array[0, 0, 0] = 1.0
    assert unpack_array(b"", (0, 3, 2)).tolist() == []
    with pytest.raises(ValueError, match="24 bytes are no 8 numbers"):
        unpack_array(PACKED, (2, 2, 2))


@pytest.mark.usefixtures("with_numpy")
def test_alignments_are_means() -> None:
    """Weights are averaged over what is not chosen: layers, heads, both or nothing."""
    numbers = np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2)
    weights = unpack_array(numbers.tobytes(), numbers.shape)
    attention = Attention(2, 3, ("x", "y"), ("a", "b"), weights)
    assert attention.alignment() == numbers.mean((1, 2)).tolist()
    assert attention.alignment(layer=1) == numbers[:, 1].mean(1).tolist()
    assert attention.alignment(head=2) == numbers[:, :, 2].mean(1).tolist()
    assert attention.alignment(layer=0, head=1) == numbers[:, 0, 1].tolist()
    with pytest.raises(IndexError, match="layer 2 is none of the 2 layers"):
        attention.alignment(layer=2)
    with pytest.raises(IndexError, match="head -1 is none of the 3 heads"):
        attention.alignment(head=-1)
    assert Attention(2, 3, ("x", "y"), (), unpack_array(b"", (0, 2, 3, 2))).alignment(layer=0) == []


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
