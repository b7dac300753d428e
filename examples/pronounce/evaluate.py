"""Score a checkpoint on words it never saw: `python -m examples.pronounce.evaluate`."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from headwaiter_export.transformer import load_checkpoint
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from examples.pronounce.batches import encode_entries
from examples.pronounce.data import Split, entries_of, load_entries
from examples.pronounce.metrics import ErrorRates, error_rates, pronounce

_CHECKPOINT = Path(__file__).parent / "checkpoint"


def evaluate(folder: Path, split: Split) -> ErrorRates:
    """Pronounce every word of a split greedily and score it.

    Args:
        folder: A checkpoint folder.
        split: Which words.

    Raises:
        headwaiter_export.transformer.CheckpointError: The folder cannot be loaded.
    """
    checkpoint = load_checkpoint(folder)
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer_json)
    entries = entries_of(load_entries(), split)
    return error_rates(entries, pronounce(checkpoint.model, tokenizer, encode_entries(entries, tokenizer)))


def main() -> None:
    """Print a table and, if asked, write the same figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=_CHECKPOINT, help="checkpoint folder")
    parser.add_argument("--split", type=Split, default=Split.TEST, help="train, validation or test (default)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rates = evaluate(arguments.checkpoint, arguments.split)
    table = Table(title=f"{rates.words} words of the {arguments.split.value} split, greedy")
    for heading in ("", "word error rate", "phoneme error rate"):
        table.add_column(heading)
    table.add_row("with stress", f"{rates.wer:.2%}", f"{rates.per:.2%}")
    table.add_row("without stress", f"{rates.wer_no_stress:.2%}", f"{rates.per_no_stress:.2%}")
    Console().print(table)
    if arguments.json:
        figures = {"split": arguments.split.value, **dataclasses.asdict(rates)}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
