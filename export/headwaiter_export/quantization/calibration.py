"""What flows into the products of a graph, on real texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from headwaiter_export.encoders.layout import Layout, Tokens
from headwaiter_export.quantization.judge import batches
from headwaiter_export.quantization.products import Site
from headwaiter_export.runtime import Graph

# Rows of each site that are kept: enough to see every channel's size, few enough to compute with.
ROWS: Final = 1024
TEXTS: Final = 128


@dataclass(frozen=True)
class Inputs:
    """What was seen at one site.

    Attributes:
        rows: A sample, `(rows, d_in)`.
        count: Rows in all; pooled values have fewer than tokens.
    """

    rows: NDArray[np.float32]
    count: int


def observe(
    model: onnx.ModelProto, sites: Sequence[Site], layout: Layout, texts: Sequence[Tokens], folder: Path
) -> dict[Site, Inputs]:
    """Run a graph with every site's input as an output.

    Args:
        model: The fp32 graph.
        sites: What to watch.
        layout: How the graph takes texts.
        texts: A few; `TEXTS` of them are used.
        folder: For the graph's file, which is removed again.
    """
    graph = watching(model, sites, folder)
    seen: dict[Site, list[NDArray[np.float32]]] = {site: [] for site in sites}
    for batch in batches(texts[:TEXTS]):
        values = graph.run(layout.feeds([texts[index] for index in batch]))
        for site in sites:
            value = values[site.input]
            seen[site].append(value.reshape(-1, value.shape[-1]))
    return {site: sample(np.concatenate(parts)) for site, parts in seen.items()}


def watching(model: onnx.ModelProto, sites: Sequence[Site], folder: Path, *, kept: bool = False) -> Graph:
    """A graph whose outputs are the inputs of some sites.

    Args:
        model: The graph.
        sites: The sites.
        folder: For its file, which is removed again.
        kept: Whether its own outputs stay, before the others.
    """
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    if not kept:
        del changed.graph.output[:]
    changed.graph.output.extend(helper.make_empty_tensor_value_info(site.input) for site in sites)
    path = folder / "calibration.onnx"
    path.write_bytes(changed.SerializeToString())
    try:
        return Graph(path)
    finally:
        path.unlink()


def sample(rows: NDArray[np.float32]) -> Inputs:
    """Some of the rows that were seen at a site."""
    chosen = np.random.default_rng(0).permutation(len(rows))[:ROWS]
    return Inputs(rows[np.sort(chosen)], len(rows))
