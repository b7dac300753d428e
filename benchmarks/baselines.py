"""What the server is held against, each in a process of its own: `python -m benchmarks.baselines KIND ...`.

`pytorch`: greedy decoding word by word with a key/value cache, as a first script would do it.
`offline`: the server's own graphs and cache, driven without a server in batches of words of like length.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.pronounce_words import sample_words


def pytorch(checkpoint: Path, words: list[str], threads: int) -> None:
    """Decode word by word in PyTorch."""
    import torch  # noqa: PLC0415 - the other baseline runs without it
    from headwaiter_export.transformer import greedy_decode, load_checkpoint  # noqa: PLC0415
    from tokenizers import Tokenizer  # noqa: PLC0415

    torch.set_num_threads(threads)
    loaded = load_checkpoint(checkpoint)
    tokenizer = Tokenizer.from_str(loaded.tokenizer_json)

    def decode(word: str) -> None:
        ids = torch.tensor([tokenizer.encode(word).ids])
        lengths = torch.tensor([ids.size(1)])
        greedy_decode(loaded.model, ids, lengths, loaded.model.config.max_target_length - 1)

    with torch.inference_mode():
        for word in words[:20]:
            decode(word)
        _measure(lambda: list(map(decode, words)), len(words))


def offline(bundle_folder: Path, words: list[str], rows: int, threads: int) -> None:
    """Decode sorted batches on the server's engine, several at a time on one thread each, as the server runs them."""
    import numpy as np  # noqa: PLC0415
    from headwaiter_proto.v1 import bundle_pb2  # noqa: PLC0415
    from headwaiter_server.encoding import Encoding  # noqa: PLC0415
    from headwaiter_server.model.bundle import read_bundle  # noqa: PLC0415
    from headwaiter_server.model.onnx import OnnxGraph  # noqa: PLC0415
    from headwaiter_server.model.seq2seq import CacheGeometry, Seq2SeqModel  # noqa: PLC0415
    from tokenizers import Tokenizer  # noqa: PLC0415

    bundle = read_bundle(bundle_folder, "fp32")
    cache, special = bundle.manifest.kv_cache, bundle.manifest.special_tokens
    model = Seq2SeqModel(
        OnnxGraph.load("encoder", bundle.graphs[bundle_pb2.GRAPH_ROLE_ENCODER], 1),
        OnnxGraph.load("step", bundle.graphs[bundle_pb2.GRAPH_ROLE_DECODER_STEP], 1),
        CacheGeometry(cache.num_layers, cache.num_heads, cache.head_dim),
        bos_id=special.bos_id,
        eos_id=special.eos_id,
    )
    tokenizer = Tokenizer.from_str(bundle.tokenizer_json)
    # Sorted by the length of the text: the best order that can be had without knowing the answers.
    sources = sorted((Encoding(tokenizer.encode(word).ids) for word in words), key=len)

    def decode(batch_sources: list[Encoding]) -> None:
        batch = model.new_batch()
        batch.join(batch_sources, range(len(batch_sources)))
        tokens = np.full(len(batch_sources), special.bos_id, np.int64)
        for _ in range(bundle.manifest.limits.max_new_tokens):
            tokens = batch.step(tokens, 0, len(tokens)).argmax(axis=-1)
            running = np.flatnonzero(tokens != special.eos_id)
            if not len(running):
                return
            if len(running) < len(tokens):
                batch.keep(running.tolist())
                tokens = tokens[running]

    batches = [sources[at : at + rows] for at in range(0, len(sources), rows)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, batches[: 2 * threads]))
        _measure(lambda: list(pool.map(decode, batches)), len(sources))


def _measure(work: Callable[[], object], count: int) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"words_per_second": count / wall, "cpu_seconds_per_1000_words": 1000 * cpu / count}))


def main() -> None:
    """Run one baseline and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["pytorch", "offline"])
    parser.add_argument("source", type=Path, help="checkpoint folder, or bundle folder")
    parser.add_argument("--words", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=32)
    options = parser.parse_args()
    words = sample_words(options.words)
    if options.kind == "pytorch":
        pytorch(options.source, words, options.threads)
    else:
        offline(options.source, words, options.rows, options.threads)


if __name__ == "__main__":
    main()
