"""What PyTorch writes by itself: `python -m benchmarks.generation.pytorch CHECKPOINT --requests FILE ...`.

One text after the other, or static batches in the order of arrival: padded, and each runs until the longest of its
texts is done. Greedy, with a key/value cache, in `torch.inference_mode()`. Prints its figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from headwaiter_export.transformer import greedy_decode, load_checkpoint
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from benchmarks.generation.workloads import Request, read_requests

# Of the first requests, generated before anything is measured.
_WARM_REQUESTS = 2


class Decoder(Protocol):
    """A model in PyTorch."""

    def write(self, batch: Sequence[Request]) -> list[list[int]]:
        """The tokens that each request asked for, the end left out."""
        ...


class DecoderOnly:
    """A checkpoint of transformers that goes on with texts, by its `generate`."""

    def __init__(self, checkpoint: Path) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
        self._model = model.eval()
        self._tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))

    def write(self, batch: Sequence[Request]) -> list[list[int]]:
        """Prompts are padded on the left; all rows run until the longest has what it wants."""
        prompts = [self._tokenizer.encode(each.text).ids for each in batch]
        longest = max(map(len, prompts))
        pad = self._model.generation_config.eos_token_id
        ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        written = self._model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=max(each.new_tokens for each in batch),
            do_sample=False,
            pad_token_id=pad,
            # The usual one is copied in every step, which takes a batch twice the processor time.
            cache_implementation="static" if len(batch) > 1 else None,
        )
        rows: list[list[int]] = written[:, longest:].tolist()
        return [row[: each.new_tokens] for row, each in zip(rows, batch, strict=True)]


class Pronounce:
    """The shipped model, by its own greedy decoding."""

    def __init__(self, checkpoint: Path) -> None:
        loaded = load_checkpoint(checkpoint)
        self._model = loaded.model
        self._tokenizer = Tokenizer.from_str(loaded.tokenizer_json)

    def write(self, batch: Sequence[Request]) -> list[list[int]]:
        """Words are padded on the right; all rows run until the last has ended."""
        sources = [self._tokenizer.encode(each.text).ids for each in batch]
        longest, config = max(map(len, sources)), self._model.config
        ids = torch.tensor([source + [config.pad_id] * (longest - len(source)) for source in sources])
        lengths = torch.tensor([len(source) for source in sources])
        written = greedy_decode(self._model, ids, lengths, config.max_target_length - 1)
        special = {config.eos_id, config.pad_id}
        return [[token for token in row if token not in special] for row in written.tolist()]


def measure(decoder: Decoder, requests: Sequence[Request], rows: int, limit_seconds: float) -> dict[str, object]:
    """Write what is asked for, `rows` requests at a time; begin nothing after the limit."""
    for each in requests[:_WARM_REQUESTS]:
        decoder.write([each])
    answers: list[list[int]] = []
    begun, cpu = time.perf_counter(), time.process_time()
    while len(answers) < len(requests) and time.perf_counter() < begun + limit_seconds:
        answers += decoder.write(requests[len(answers) : len(answers) + rows])
    wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    tokens = sum(map(len, answers))
    return {
        "answers": answers,
        "tokens_per_second": tokens / wall,
        "cpu_seconds_per_1000_tokens": 1000 * cpu / tokens,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--requests", type=Path, required=True, help="what workloads.write_requests wrote")
    parser.add_argument("--order", type=int, default=0)
    parser.add_argument("--count", type=int, help="most requests; all, if not given")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit-seconds", type=float, default=60.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers_made = (options.checkpoint / "generation_config.json").exists()
    decoder: Decoder = DecoderOnly(options.checkpoint) if transformers_made else Pronounce(options.checkpoint)
    requests = read_requests(options.requests, options.order)[: options.count]
    with torch.inference_mode():
        print(json.dumps(measure(decoder, requests, options.rows, options.limit_seconds)))


if __name__ == "__main__":
    main()
