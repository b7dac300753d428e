"""The training log, one JSON object per epoch, and its picture."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Append one epoch to the log."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The log, oldest first; of an epoch logged twice, because a stop came in between, the later one."""
    if not path.exists():
        return []
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [record for _, record in sorted({record["epoch"]: record for record in records}.items())]


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Draw the training loss and the validation error rates by epoch."""
    # Imported here: everything but the picture works without matplotlib.
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    rates = figure.subplots()
    epochs = [record["epoch"] for record in records]
    for key, label in (("wer", "WER"), ("wer_no_stress", "WER without stress"), ("per", "PER")):
        rates.plot(epochs, [100 * record["validation"][key] for record in records], marker=".", label=label)
    rates.set(xlabel="epoch", ylabel="validation error rate, %", ylim=(0, 100))
    rates.grid(alpha=0.3)
    losses = rates.twinx()
    losses.plot(epochs, [record["loss"] for record in records], color="grey", linestyle=":", label="training loss")
    losses.set_ylabel("training loss, nats per phoneme, label-smoothed")
    figure.legend(loc="upper right", bbox_to_anchor=(0.9, 0.95))
    figure.savefig(path, dpi=120)
