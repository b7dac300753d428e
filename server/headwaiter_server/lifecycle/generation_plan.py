"""How much memory a model that generates has for its texts, and what its largest iteration takes beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import numpy as np

from headwaiter_server.config import AUTO, ServerSettings
from headwaiter_server.encoding import Encoding
from headwaiter_server.errors import BundleError
from headwaiter_server.generation.room import rows_for
from headwaiter_server.lifecycle.memory import MemoryPlan, MemoryShare, resident_bytes
from headwaiter_server.log import get_logger
from headwaiter_server.model.cached import CachedModel
from headwaiter_server.model.generation import CHUNK_TOKENS

_log = get_logger(__name__)

# Of the memory that there is, a model's texts take at most one part of so many, where nothing else is asked for.
_AUTO_PART: Final = 8
# One that is read and one that is generated; with an encoder, one of either side, which take as much.
_SHORTEST_TOKENS: Final = 2
_REMEDY: Final = "lower --workers, --max-batch-rows, --kv-cache-bytes or the model's longest text"


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """How a model that generates will run.

    Attributes:
        model: The model.
        cache_bytes: Memory for the keys and values of its texts, of all workers together.
        share: What it was counted in with.
    """

    model: CachedModel
    cache_bytes: int
    share: MemoryShare


def plan_generation(
    name: str, model: CachedModel, longest_source: int, settings: ServerSettings, workers: int, memory: MemoryPlan
) -> GenerationPlan:
    """Plan how a model that generates runs.

    Args:
        name: Its name.
        model: The model.
        longest_source: Tokens of the longest text that it takes.
        settings: The settings.
        workers: Workers that run it.
        memory: Where it is counted in.

    Raises:
        BundleError: It does not fit into memory, no text fits into its cache, or it does not run.
    """
    rows = rows_for(settings.batching, settings.max_batch_rows)
    text_bytes = model.text_bytes(longest_source)
    cache_bytes = _cache_bytes(settings, text_bytes, rows, workers, memory.limit_bytes)
    if (worker_bytes := cache_bytes // workers) < text_bytes:
        shortest = _SHORTEST_TOKENS * model.token_bytes
        if worker_bytes < shortest:
            raise BundleError(
                f"the model {name!r} needs {shortest} bytes of cache on each of {workers} workers for the shortest "
                f"text, and has {worker_bytes}: raise --kv-cache-bytes to {shortest * workers} at least"
            )
        _log.warning("kv_cache_small", model=name, worker_bytes=worker_bytes, longest_text_bytes=text_bytes)
    before = resident_bytes()
    try:
        # Address space is asked for here, for all of them at one time, and not when somebody calls.
        capacity = model.capacity(cache_bytes // workers)
        asked = [model.new_rows(rows, capacity) for _ in range(workers)]
        del asked
        _run_largest(model, rows, longest_source)
    except Exception as error:
        raise BundleError(f"the model {name!r} does not run", error) from error
    taken = max(0, resident_bytes() - before)
    run_bytes = cache_bytes + workers * (rows * model.idle_row_bytes(longest_source) + taken)
    return GenerationPlan(model, cache_bytes, memory.add(name, run_bytes, taken, _REMEDY))


def _cache_bytes(settings: ServerSettings, text_bytes: int, rows: int, workers: int, limit_bytes: int | None) -> int:
    most = text_bytes * rows * workers
    if settings.kv_cache_bytes != AUTO:
        return min(settings.kv_cache_bytes, most)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if limit_bytes is None else limit_bytes
    return min(most, max(total // _AUTO_PART, text_bytes * workers))


def _run_largest(model: CachedModel, row_count: int, longest_source: int) -> None:
    """Run what an iteration runs at most: a step of all rows, a piece of a prompt, and the encoder's longest source."""
    rows = model.new_rows(row_count, CHUNK_TOKENS)
    if model.start_id is not None:
        rows.encode([Encoding([0] * longest_source)], [0])
        rows.free(0)
    rows.read(0, [0] * rows.capacity, 0)
    rows.step(np.zeros(row_count, np.int64), np.zeros(row_count, np.int64), 0)
