"""Runs that raise, and what is left of them."""

from __future__ import annotations

import gc
import traceback
import weakref
from collections.abc import Iterator

import pytest
from headwaiter_server.scheduling.isolation import Try, run_isolating


class Arrays:
    """Stands for what a run holds in its variables."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    """References are counted, cycles stay."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_a_failed_run_leaves_nothing_but_its_errors() -> None:
    """The arrays of a run that raised go with it, not when garbage is collected; what the log tells stays."""
    held: list[weakref.ref[Arrays]] = []

    def run(start: int, stop: int) -> None:
        arrays = Arrays()
        held.append(weakref.ref(arrays))
        if start <= 2 < stop:
            raise RuntimeError("no such row")

    tries: list[Try] = []
    failures = run_isolating(run, 0, 4, tries)
    assert list(failures) == [2]
    assert len(held) == len(tries) == 5
    assert [each() for each in held] == [None] * 5
    told = "".join(traceback.format_exception(failures[2]))
    assert "RuntimeError: no such row" in told
    assert 'raise RuntimeError("no such row")' in told, "the log still says where it was raised"
