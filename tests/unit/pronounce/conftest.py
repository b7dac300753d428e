"""The dictionary, read once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from examples.pronounce.data import alphabet, load_entries
from examples.pronounce.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenizers import Tokenizer

    from examples.pronounce.data import Entry


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    # On tensors this small threads only wait for each other.
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def entries() -> list[Entry]:
    return load_entries()


@pytest.fixture(scope="session")
def tokenizer(entries: list[Entry]) -> Tokenizer:
    return build_tokenizer(*alphabet(entries))
