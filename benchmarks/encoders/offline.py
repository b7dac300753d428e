"""A bundle's graph on bare onnxruntime, without a server: `python -m benchmarks.encoders.offline MODE BUNDLE ...`.

`side-by-side`: all texts known in advance, in batches by each of the given rules, as many runs at a time as there are
processors, one thread each. `alone`: one text after the other, all threads on it. Prints figures as JSON, by rule.

Tokenizing and gRPC are not in these figures, but for each text a row of the answer is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import json_format
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.cpu import available_cpus
from tokenizers import Tokenizer

from benchmarks.encoders.batches import Batches, parse_rule
from benchmarks.encoders.outcomes import percentile
from benchmarks.encoders.workloads import read_workload

OUTPUT = "unit_embedding"
_WARM_TEXTS = 64
Ids = Sequence[int]


@dataclass(frozen=True)
class Graph:
    """A graph, and how it wants its texts."""

    session: onnxruntime.InferenceSession
    packed: bool

    @classmethod
    def load(cls, bundle: Path, variant: str, threads: int) -> Graph:
        """Read the manifest and build a session."""
        text = (bundle / "manifest.json").read_text(encoding="utf-8")
        manifest = json_format.Parse(text, bundle_pb2.Manifest())
        names = {each.name: each.graphs[0].file.name for each in manifest.variants}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # As the server and the export do; see there.
        options.add_session_config_entry("session.x64quantprecision", "1")
        session = onnxruntime.InferenceSession(bundle / names[variant], options, providers=["CPUExecutionProvider"])
        return cls(session, manifest.graph_kind == bundle_pb2.GRAPH_KIND_PACKED)

    def run(self, texts: Sequence[Ids]) -> Any:  # noqa: ANN401 - onnxruntime is untyped
        """The vectors of one batch, `(texts, dimension)`."""
        feeds = _packed(texts) if self.packed else _padded(texts)
        return self.session.run([OUTPUT], {each.name: feeds[each.name] for each in self.session.get_inputs()})[0]


def _packed(texts: Sequence[Ids]) -> dict[str, Any]:
    lengths = [len(ids) for ids in texts]
    input_ids = np.concatenate([np.asarray(ids, np.int64) for ids in texts])
    return {
        "input_ids": input_ids,
        "position_ids": np.concatenate([np.arange(length) for length in lengths]),
        "segment": np.repeat(np.arange(len(texts)), lengths),
        "token_type_ids": np.zeros_like(input_ids),
        "text_starts": np.cumsum([0, *lengths[:-1]]),
    }


def _padded(texts: Sequence[Ids]) -> dict[str, Any]:
    input_ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
    mask = np.zeros_like(input_ids)
    for row, ids in enumerate(texts):
        input_ids[row, : len(ids)] = ids
        mask[row, : len(ids)] = 1
    return {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(input_ids)}


def side_by_side(graph: Graph, batches: Batches[Ids], limit_seconds: float) -> dict[str, float]:
    """Run all batches, and start none after the limit."""
    begun = time.perf_counter()

    def run(batch: Sequence[Ids]) -> int:
        return len(graph.run(batch)) if time.perf_counter() < begun + limit_seconds else 0

    cpu = time.process_time()
    with ThreadPoolExecutor(available_cpus()) as pool:
        done = sum(pool.map(run, batches))
    wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {"texts": done, "texts_per_second": done / wall, "cpu_seconds_per_1000_texts": 1000 * cpu / done}


def alone(graph: Graph, texts: Sequence[Ids]) -> dict[str, float]:
    """Run text by text."""
    seconds = []
    for ids in texts:
        started = time.perf_counter()
        graph.run([ids])
        seconds.append(time.perf_counter() - started)
    return {"p50_seconds": percentile(seconds, 0.50), "p99_seconds": percentile(seconds, 0.99)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["side-by-side", "alone"])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", default="fp32")
    parser.add_argument("--texts", type=Path, required=True, help="what workloads.write_workloads wrote")
    parser.add_argument("--workload", required=True)
    parser.add_argument("--order", type=int, default=0)
    parser.add_argument("--count", type=int)
    parser.add_argument("--rules", nargs="+", default=["rows:1"], help="how texts become batches, see batches.py")
    parser.add_argument("--limit-seconds", type=float, default=60.0)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.bundle / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    texts = read_workload(options.texts, options.workload, options.order)[: options.count]
    encodings: list[Ids] = [each.ids for each in tokenizer.encode_batch(texts)]
    threads = available_cpus() if options.mode == "alone" else 1
    graph = Graph.load(options.bundle, options.variant, threads)
    for ids in encodings[:_WARM_TEXTS]:
        graph.run([ids])
    if options.mode == "alone":
        figures = {"alone": alone(graph, encodings)}
    else:
        batches = {text: parse_rule(text).batches(encodings, packed=graph.packed) for text in options.rules}
        figures = {rule: side_by_side(graph, made, options.limit_seconds) for rule, made in batches.items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
