"""Train the pronunciation model: `python -m examples.pronounce.train`.

Stop it with Ctrl-C or SIGTERM and start it again with the same command: it goes on where it was. The number
of epochs may be changed on the way, until the learning rate has begun to fall.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
from pathlib import Path

import torch
from rich.console import Console

from examples.pronounce.data import Split, alphabet, entries_of, load_entries
from examples.pronounce.tokenizer import build_tokenizer
from examples.pronounce.trainer import Settings, Trainer


def parse_settings(arguments: list[str] | None = None) -> tuple[Settings, int]:
    """Read the command line; every default stands in `Settings`.

    Returns:
        The settings and the number of threads.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=cache / "headwaiter" / "pronounce", help="state, log, results")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch")
    for field in dataclasses.fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
        elif field.name != "work_dir":
            parser.add_argument(flag, type=type(field.default), default=field.default, help="default %(default)s")
    values = vars(parser.parse_args(arguments))
    threads = values.pop("threads")
    return Settings(**values), threads


def main() -> None:
    """Train on the installed dictionary."""
    settings, threads = parse_settings()
    torch.set_num_threads(threads)
    console = Console()
    entries = load_entries()
    tokenizer = build_tokenizer(*alphabet(entries))
    train, validation = entries_of(entries, Split.TRAIN), entries_of(entries, Split.VALIDATION)
    trainer = Trainer(settings, tokenizer, train, validation, console)
    parameters = sum(weight.numel() for weight in trainer.model.parameters())
    console.print(f"{len(train)} words to learn, {len(validation)} to validate, {parameters:,} parameters")
    signal.signal(signal.SIGTERM, trainer.stop)
    signal.signal(signal.SIGINT, trainer.stop)
    trainer.run()


if __name__ == "__main__":
    main()
