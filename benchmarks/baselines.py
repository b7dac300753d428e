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
from queue import SimpleQueue

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
    import numpy as np  # noqa: PLC0415 - the other baseline runs without these
    from headwaiter_server.encoding import Encoding  # noqa: PLC0415
    from headwaiter_server.model.cached import CachedModel, CachedRows  # noqa: PLC0415

    from benchmarks.generation.offline import load  # noqa: PLC0415

    built = load(bundle_folder, "fp32")
    model, tokenizer = built.body, built.tokenizer
    assert isinstance(model, CachedModel)
    assert tokenizer is not None
    ends, most = list(model.end_ids), built.manifest.limits.max_new_tokens
    # Sorted by the length of the text: the best order that can be had without knowing the answers.
    sources = sorted(tokenizer.encode_all(words, "words"), key=len)

    def decode(batch_sources: list[Encoding], batch: CachedRows) -> None:
        count = len(batch_sources)
        batch.encode(batch_sources, range(count))
        tokens = np.full(count, model.start_id)
        for place in range(most):
            tokens = batch.step(tokens, np.full(len(tokens), place), 0).argmax(axis=-1)
            running = ~np.isin(tokens, ends)
            kept = int(running.sum())
            # The last rows that go on take the places of the first ones that have ended.
            holes, movers = np.flatnonzero(~running[:kept]), kept + np.flatnonzero(running[kept:])
            for hole, mover in zip(holes.tolist(), movers.tolist(), strict=True):
                batch.copy(mover, hole, 0, place + 1)
            tokens[holes] = tokens[movers]
            tokens = tokens[:kept]
            if not kept:
                break
        for row in range(count):
            batch.free(row)

    free: SimpleQueue[CachedRows] = SimpleQueue()
    for _ in range(threads):
        free.put(model.new_rows(rows))

    def decode_anywhere(batch_sources: list[Encoding]) -> None:
        batch = free.get()
        decode(batch_sources, batch)
        free.put(batch)

    batches = [sources[at : at + rows] for at in range(0, len(sources), rows)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode_anywhere, batches[: 2 * threads]))
        _measure(lambda: list(pool.map(decode_anywhere, batches)), len(sources))


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
