"""A Transformer small enough to compare number by number."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
import torch
from headwaiter_export.transformer import Transformer, TransformerConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    # On tensors this small threads only wait for each other.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def config() -> TransformerConfig:
    return TransformerConfig(
        vocab_size=23,
        d_model=16,
        num_heads=4,
        d_ff=32,
        num_encoder_layers=2,
        num_decoder_layers=3,
        dropout=0.0,
        max_source_length=12,
        max_target_length=10,
    )


@pytest.fixture(params=[False, True], ids=["post-norm", "pre-norm"])
def model(request: pytest.FixtureRequest, config: TransformerConfig) -> Transformer:
    return Transformer(dataclasses.replace(config, norm_first=request.param)).eval()


@pytest.fixture
def random_ids(config: TransformerConfig) -> Callable[[int, int], torch.Tensor]:
    """Makes ids `(batch, length)` of ordinary tokens."""
    lowest = 1 + max(config.pad_id, config.bos_id, config.eos_id)
    return lambda batch, length: torch.randint(lowest, config.vocab_size, (batch, length))
