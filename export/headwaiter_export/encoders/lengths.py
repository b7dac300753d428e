"""The longest text that every file of a checkpoint agrees to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headwaiter_export.encoders.files import read_json
from headwaiter_export.errors import CorruptCheckpointError, UnknownArchitectureError

# sentence_bert_config.json; older versions of sentence-transformers put the family's name there.
_SENTENCE_FILES: Final = "sentence_*_config.json"
# transformers writes 10^30 where it means "no limit".
_NO_LIMIT: Final = 1 << 31


@dataclass(frozen=True)
class MaxLength:
    """The limit and where it comes from.

    Attributes:
        tokens: Tokens of the longest text, special tokens included.
        remarks: What was decided, if there was anything to decide.
    """

    tokens: int
    remarks: tuple[str, ...]


def max_length(
    source: Path, transformer: Path, tokenizer: dict[str, Any], positions: int | None, asked: int | None = None
) -> MaxLength:
    """The smallest limit that any file states, or the one that the user asks for.

    Args:
        source: The checkpoint's folder.
        transformer: The Transformer's folder: the same, or one inside it.
        tokenizer: tokenizer.json.
        positions: Positions the model has for tokens; None if it names no limit.
        asked: The user's own limit; only the model's positions bound it.

    Raises:
        CorruptCheckpointError: No file states a limit, or one is not a positive number.
    """
    stated: dict[str, Any] = {
        **_stated(source, _found(source, transformer, "tokenizer_config.json"), "model_max_length"),
        "tokenizer.json truncation": (tokenizer.get("truncation") or {}).get("max_length"),
        **_stated(source, sentence_files(source, transformer), "max_seq_length"),
        "config.json max_position_embeddings": positions,
    }
    limits: dict[str, int] = {}
    for name, value in stated.items():
        if value is None or (isinstance(value, int | float) and value >= _NO_LIMIT):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CorruptCheckpointError(f"{source}: {name} is {value!r}, not a number of tokens")
        limits[name] = value
    if asked is not None:
        if positions is not None and asked > positions:
            raise UnknownArchitectureError(
                f"{source}: {asked} tokens were asked for, the model has {positions} positions"
            )
        found = ", ".join(f"{name} is {value}" for name, value in limits.items())
        return MaxLength(
            asked, (f"texts have at most {asked} tokens, as was asked for; {found or 'no file says more'}",)
        )
    if not limits:
        raise CorruptCheckpointError(f"{source}: no file says how long a text may be; --max-tokens does")
    smallest = min(limits.values())
    others = [f"{name} is {value}" for name, value in limits.items() if value != smallest]
    if not others:
        return MaxLength(smallest, ())
    deciding = " and ".join(name for name, value in limits.items() if value == smallest)
    remark = f"texts have at most {smallest} tokens, the smallest of the limits stated: {deciding}; but "
    return MaxLength(smallest, (remark + ", ".join(others),))


def sentence_files(source: Path, transformer: Path) -> list[Path]:
    """The files in which sentence-transformers says how it reads texts; one, as a rule, or none."""
    return _found(source, transformer, _SENTENCE_FILES)


def _found(source: Path, transformer: Path, pattern: str) -> list[Path]:
    return [path for folder in dict.fromkeys((source, transformer)) for path in sorted(folder.glob(pattern))]


def _stated(source: Path, paths: list[Path], key: str) -> dict[str, Any]:
    return {f"{path.relative_to(source)} {key}": read_json(path, dict).get(key) for path in paths}
