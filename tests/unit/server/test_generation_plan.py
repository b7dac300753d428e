"""How much memory a model that generates may use for its texts, and whether there is as much."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from headwaiter_server.config import ServerSettings
from headwaiter_server.errors import BundleError
from headwaiter_server.generation.decoding import MOST_BEAMS
from headwaiter_server.lifecycle import generation_plan
from headwaiter_server.lifecycle.generation_plan import GenerationPlan, plan_generation
from headwaiter_server.lifecycle.memory import MemoryPlan
from headwaiter_server.model.cached import CachedModel, CachedRows

from .cached_graphs import PLACES, small_model

MIB = 1 << 20
TEXT_BYTES = PLACES * 512
WORKERS = 2


def planned(memory: MemoryPlan, model: CachedModel | None = None, **settings: Any) -> GenerationPlan:  # noqa: ANN401 - of any setting
    chosen = ServerSettings(models=Path(), **settings)
    return plan_generation("small", model or small_model(), 40, chosen, WORKERS, memory)


def of_limit(limit_bytes: int | None) -> MemoryPlan:
    """Of a server that holds nothing yet."""
    return MemoryPlan(limit_bytes, lambda: 0)


@pytest.mark.parametrize(
    ("limit_mib", "settings", "texts"),
    [
        (1024, {}, 64 * WORKERS),  # as much as all rows can use
        (160, {"max_batch_rows": 1000}, 20 * MIB / TEXT_BYTES),  # an eighth
        (160, {"max_batch_rows": 3}, 3 * WORKERS),
        (160, {"batching": "none"}, MOST_BEAMS * WORKERS),  # of one text
        (160, {"batching": "none", "max_batch_rows": 3}, 3 * WORKERS),
        (160, {"kv_cache_bytes": 10 * TEXT_BYTES}, 10),
        (160, {"kv_cache_bytes": 1000 * MIB}, 64 * WORKERS),
        (160, {"kv_cache_bytes": 3000}, 3000 / TEXT_BYTES),
    ],
)
def test_memory_for_texts(limit_mib: int, settings: dict[str, Any], texts: float) -> None:
    """What the setting says, and without one a part of the memory; never more than rows can use."""
    assert planned(of_limit(limit_mib * MIB), **settings).cache_bytes == texts * TEXT_BYTES


def test_longest_text_fits_on_each_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little memory there is: less would be of no use."""
    monkeypatch.setattr(generation_plan, "_AUTO_PART", 10_000)
    assert planned(of_limit(200 * MIB)).cache_bytes == WORKERS * TEXT_BYTES


def test_a_cache_in_which_no_text_fits_is_refused() -> None:
    """What two tokens take on each worker is the least; it says what to set."""
    least = WORKERS * 2 * 512
    assert planned(of_limit(None), kv_cache_bytes=least).cache_bytes == least
    with pytest.raises(
        BundleError, match=rf"1024 bytes of cache on each of 2 workers .* has 1023: raise --kv-cache-bytes to {least}"
    ):
        planned(of_limit(None), kv_cache_bytes=least - 1)


def test_a_small_cache_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    """A worker's part is compared with the longest text, that is what a text must fit into."""
    planned(of_limit(None), kv_cache_bytes=WORKERS * TEXT_BYTES)
    assert "kv_cache_small" not in "".join(capsys.readouterr())
    planned(of_limit(None), kv_cache_bytes=WORKERS * TEXT_BYTES - 2)
    told = "".join(capsys.readouterr())
    assert "kv_cache_small" in told
    assert str(TEXT_BYTES - 1) in told


def test_without_a_limit_it_is_a_part_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine of 64 MiB an eighth."""
    sizes = {"SC_PHYS_PAGES": 64 * MIB // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert planned(of_limit(None), max_batch_rows=1000).cache_bytes == 8 * MIB


def test_it_is_counted_in() -> None:
    """What texts keep is expected, and what rows take beside it; the next model finds only what is left."""
    memory = of_limit(400 * MIB)
    plan = planned(memory, kv_cache_bytes=4 * MIB)
    assert 4 * MIB < plan.share.expected_bytes < 40 * MIB
    with pytest.raises(
        BundleError, match=r"the limit is 30 MiB: allow more memory, or lower --workers, --max-batch-row"
    ):
        planned(of_limit(30 * MIB), kv_cache_bytes=64 * MIB, max_batch_rows=4000)


def test_address_space_that_there_is_not_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a lane would be refused when somebody calls is refused at load, for all workers at one time."""
    asked: list[tuple[int, int | None]] = []
    real = CachedModel.new_rows

    def new_rows(self: CachedModel, rows: int, capacity: int | None = None) -> CachedRows:
        asked.append((rows, capacity))
        if len(asked) == WORKERS:
            raise MemoryError("the system does not give it")
        return real(self, rows, capacity)

    monkeypatch.setattr(CachedModel, "new_rows", new_rows)
    with pytest.raises(BundleError, match="the model 'small' does not run: the system does not give it"):
        planned(of_limit(None), kv_cache_bytes=WORKERS * 10 * 512)
    assert asked == [(64, 10)] * WORKERS


def test_largest_runs_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of all rows and a whole piece of a prompt take their memory before anybody calls."""
    stepped: list[int] = []
    real = CachedRows.step

    def step(self: CachedRows, *arguments: Any) -> Any:  # noqa: ANN401 - as it is
        stepped.append(len(arguments[0]))
        return real(self, *arguments)

    monkeypatch.setattr(CachedRows, "step", step)
    planned(of_limit(None), max_batch_rows=7)
    assert stepped == [7]
