"""What PyTorch gives on a few texts, for a server to check itself against."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from headwaiter_export.generation.gate import Gate
from headwaiter_export.texts import padded

TEXTS: Final = 16


def write_golden(path: Path, gate: Gate) -> None:
    """Write the first texts of a gate at none of whose tokens PyTorch had to waver.

    Arrays: `source_ids` `(n, s)` and `tokens` `(n, t)`, int64, both filled with 0 on the right; `source_lengths` and
    `token_counts` `(n,)`; `first_logits` `(n, vocab)`, float32, of the first generated token.
    """
    clear = [at for at in range(len(gate.wanted)) if at not in gate.ties][:TEXTS]
    rows, wanted = [gate.texts.rows[at] for at in clear], [gate.wanted[at] for at in clear]
    np.savez(
        path,
        allow_pickle=False,
        source_ids=padded(rows, 0),
        source_lengths=np.array([len(row) for row in rows]),
        tokens=padded([each.tokens for each in wanted], 0),
        token_counts=np.array([len(each.tokens) for each in wanted]),
        first_logits=np.stack([each.logits[0] for each in wanted]),
    )
