"""Models that fail on some of what they are asked, and take the whole run with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from headwaiter_proto.v1 import bundle_pb2
from onnx import helper, numpy_helper
from unit.server.tensor_graphs import bare, doubled, spread
from unit.server.test_load_encoder import Made
from unit.server.test_manifest_encoder import PACKED, PADDED

ENCODERS = {"packed": PACKED, "padded": PADDED}
# Tensors: rows that leave one another alone, and rows that are all NaN as soon as one number of a run is.
TENSORS = ("rows", "leaning")
# Words 1 to 14 are healthy. One becomes a NaN, which of a packed model spoils the answers of its whole run; for one the
# table has no row, so that onnxruntime raises.
WORDS = [f"w{token}" for token in range(1, 15)]
NAN, RAISING = "nan", "boom"
# As the texts do, they wait for mates.
_BATCHED = "max_batch_size: 16 dynamic_batching { preferred_batch_size: 16 max_queue_delay_microseconds: 5000 }"


def write_models(repository: Path) -> Path:
    """Write all of them."""
    for name, kind in ENCODERS.items():
        _write_fragile(repository / name, kind)
    for name, graph in zip(TENSORS, (doubled(("batch", 4)), spread()), strict=True):
        bare(repository, graph, _BATCHED, name=name)
    return repository


def expected(words: list[int]) -> list[float]:
    """The raw answer of an encoder to a text of these words."""
    return [sum(words), sum(place * word for place, word in enumerate(words)), 0, words[0]]


def _write_fragile(folder: Path, kind: bundle_pb2.GraphKind) -> None:
    made = Made(folder, kind=kind)
    graph = onnx.load_from_string(made.graph)
    (cast,) = (node for node in graph.graph.node if list(node.input) == ["input_ids"])
    cast.CopyFrom(helper.make_node("Gather", ["numbers_of_ids", "input_ids"], list(cast.output)))
    table = np.append(np.arange(len(WORDS) + 1, dtype=np.float32), np.float32(np.nan))
    graph.graph.initializer.append(numpy_helper.from_array(table, "numbers_of_ids"))
    made.graph = graph.SerializeToString()
    tokenizer = json.loads(made.tokenizer_json)
    tokenizer["model"]["vocab"] |= {NAN: len(WORDS) + 1, RAISING: len(WORDS) + 2}
    made.tokenizer_json = json.dumps(tokenizer)
    made.write()
