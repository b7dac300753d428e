"""Figures are written with three digits and the unit that fits."""

from __future__ import annotations

import pytest
from headwaiter_load import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0.0, "0 s"), (0.0000124, "12.4 µs"), (0.00085, "850 µs"), (0.0009996, "1.00 ms"),
        (0.01234, "12.3 ms"), (0.09996, "100 ms"), (0.9994, "999 ms"), (0.9996, "1.00 s"), (1.8249, "1.82 s"),
        (12345.6, "12,346 s"),
    ],
)  # fmt: skip
def test_seconds(value: float | None, text: str) -> None:
    assert units.seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0/s"), (0.05, "0.0500/s"), (9.996, "10.0/s"), (1234.5, "1,234/s")])
def test_rate(value: float, text: str) -> None:
    assert units.rate(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0 %"), (1, "100 %"), (0.00309, "0.309 %"), (0.9999, "100 %")])
def test_share(value: float, text: str) -> None:
    assert units.share(value) == text


def test_the_rest() -> None:
    assert units.count(1234.6) == "1,235"
    assert units.ratio(1.066) == "1.07x"
    assert units.ratio(float("inf")) == "?"
    assert units.byte_count(1_234_567) == "1.23 MB"
    assert units.byte_count(12) == "12 B"
