"""What a step costs and copies as its texts get longer: `python -m benchmarks.generation.contexts BUNDLE`.

The model's rows by themselves, on one thread. Prints its figures as JSON, by the number of tokens that each row has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from headwaiter_server.model.cached import CachedModel

from benchmarks.generation.offline import load

_ROWS = 16
_CONTEXTS = (16, 128, 512, 1000)


def measure(model: CachedModel, steps: int) -> dict[int, dict[str, float]]:
    """Step all rows some times at each context."""
    rows = model.new_rows(_ROWS)
    tokens = np.arange(2, 2 + _ROWS)
    figures = {}
    for context in (each for each in _CONTEXTS if each + steps < rows.capacity):
        # Places that nobody has written hold zeros, and cost the same.
        rows.step(tokens, np.full(_ROWS, context), 0)
        copied, seconds = rows.copied_bytes, list[float]()
        for place in range(context, context + steps):
            began = time.perf_counter()
            rows.step(tokens, np.full(_ROWS, place), 0)
            seconds.append(time.perf_counter() - began)
        figures[context] = {
            "step_seconds": statistics.median(seconds),
            "copied_bytes": (rows.copied_bytes - copied) / steps,
            "kept_bytes": _ROWS * context * model.token_bytes,
        }
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    built = load(options.bundle, "fp32")
    assert isinstance(built.body, CachedModel)
    print(json.dumps(measure(built.body, options.steps)))


if __name__ == "__main__":
    main()
