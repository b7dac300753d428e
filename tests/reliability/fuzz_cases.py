"""Cases: the calls of a fuzzing run, each a function of the run's seed and the case's number."""

from __future__ import annotations

import base64
import json
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError, Message
from reliability.fuzz_methods import CONTROLS, Method
from reliability.fuzz_mutation import damage, mutate
from reliability.fuzz_seeds import MODELS, SPARE
from reliability.fuzz_values import text

TYPED, WIRE, RAW, METADATA = "typed", "wire", "raw", "metadata"
KINDS = {TYPED: 60, WIRE: 20, RAW: 10, METADATA: 10}

Metadata = tuple[tuple[str, str | bytes], ...]

_MOST_MESSAGES = 6
_RAW_BYTES = (0, 1, 2, 3, 8, 64, 64, 300, 5000)
_TIMEOUTS = (0.0001, 0.001, 0.005, 0.02, 0.1, 1.0)
_KEYS = (
    *("headwaiter-priority", "headwaiter-fairness-key", "authorization", "traceparent", "tracestate", "grpc-timeout"),
    *("grpc-encoding", "grpc-accept-encoding", "content-type", "te", "user-agent", "x-request-id", "triton-grpc"),
    *("headwaiter-unknown", "grpc-previous-rpc-attempts", "grpc-trace-bin", "x-blob-bin", "baggage"),
)
_VALUES = (
    *("", "0", "1", "16", "17", "-1", "high", "1.5", "9" * 1000, "0001", "1m", "99999999H", "0n", "abc", "identity"),
    *("gzip", "deflate,gzip", "unknown-codec", "Bearer", "Bearer ", "bearer abc", "Bearer " + "a" * 3000, "Basic YTpi"),
    *("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "00-xyz", "ff-" + "a" * 60),
    *("application/json", "application/grpc+proto", "trailers", "../../etc/passwd", "%00", "k" * 300, "a=b,c=d", "~"),
)


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        name: Says where it comes from: `seed/number`, or its file in the corpus.
        kind: How it was made.
        path: Of its method.
        messages: What is sent.
        metadata: What is sent along.
        timeout_seconds: The deadline that it gives itself; None for the longest that an answer may take.
        cancel_after: It is cancelled after so many answers; None if it is not.
    """

    name: str
    kind: str
    path: str
    messages: tuple[bytes, ...]
    metadata: Metadata = ()
    timeout_seconds: float | None = None
    cancel_after: int | None = None

    def write(self, folder: Path) -> None:
        """Keep it in a folder, as a file that `read_case` reads."""
        fields: dict[str, Any] = {"kind": self.kind, "path": self.path, "messages": [_packed(m) for m in self.messages]}
        if self.metadata:
            fields["metadata"] = [
                [key, value if isinstance(value, str) else {"bytes": _packed(value)}] for key, value in self.metadata
            ]
        if self.timeout_seconds is not None:
            fields["timeout_seconds"] = self.timeout_seconds
        if self.cancel_after is not None:
            fields["cancel_after"] = self.cancel_after
        folder.mkdir(parents=True, exist_ok=True)
        name = self.name.replace("/", "-") + ".json"
        (folder / name).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def read_case(file: Path) -> Case:
    """A case that was kept."""
    fields = json.loads(file.read_text(encoding="utf-8"))
    metadata = [
        (key, value if isinstance(value, str) else _unpacked(value["bytes"]))
        for key, value in fields.get("metadata", ())
    ]
    return Case(
        file.stem,
        fields["kind"],
        fields["path"],
        tuple(map(_unpacked, fields["messages"])),
        tuple(metadata),
        fields.get("timeout_seconds"),
        fields.get("cancel_after"),
    )


def make_case(methods: Sequence[Method], seed: int, number: int) -> Case:
    """The case of a number: always the same.

    Args:
        methods: Of the server.
        seed: Of the run.
        number: Of the case.
    """
    name = f"{seed}/{number}"
    chance = random.Random(name)
    (kind,) = chance.choices(list(KINDS), list(KINDS.values()))
    (method,) = chance.choices(methods, [each.weight for each in methods])
    count = chance.randint(0, _MOST_MESSAGES) if method.sends_many else 1
    if kind == RAW and chance.random() < 0.1:  # of a method that takes one
        count = chance.choice((0, 2))
    messages = tuple(_spared(method, _message(kind, method, chance)) for _ in range(count))
    cancel_after: int | None = None
    if method.endless:
        cancel_after = 1
    elif chance.random() < (0.2 if method.gets_many else 0.02):
        cancel_after = chance.randrange(3) if method.gets_many else 0
    in_haste = chance.random() < (0.3 if kind == METADATA else 0.01)
    return Case(
        name,
        kind,
        method.path,
        messages,
        _metadata(chance) if kind == METADATA else (),
        chance.choice(_TIMEOUTS) if in_haste else None,
        cancel_after,
    )


def _message(kind: str, method: Method, chance: random.Random) -> bytes:
    seed = chance.choice(method.seeds)
    if kind == RAW:
        return chance.randbytes(chance.choice(_RAW_BYTES))
    if kind == WIRE:
        other = chance.choice(method.seeds).SerializeToString()
        return damage(_whole(seed, chance), other, chance)
    if kind == METADATA:
        return _whole(seed, chance)
    return mutate(seed, chance)


def _whole(seed: Message, chance: random.Random) -> bytes:
    return mutate(seed, chance) if chance.random() < 0.3 else seed.SerializeToString()


def _spared(method: Method, data: bytes) -> bytes:
    """A message that loads and unloads none but the model that is there for it."""
    if method.name not in CONTROLS:
        return data
    kind = method.kind
    try:
        message: Any = kind.FromString(data)
    except DecodeError:
        return data
    if message.model_name not in MODELS:
        return data
    message.model_name = SPARE
    changed: bytes = message.SerializeToString()
    return changed


def _metadata(chance: random.Random) -> Metadata:
    pairs: list[tuple[str, str | bytes]] = []
    for _ in range(chance.randint(1, 4)):
        key = chance.choice(_KEYS)
        if key.endswith("-bin"):
            pairs.append((key, chance.randbytes(chance.choice((0, 1, 29, 500)))))
        elif chance.random() < 0.8:
            pairs.append((key, chance.choice(_VALUES)))
        else:
            pairs.append((key, "".join(each for each in text(chance, "metadata")[:2000] if " " <= each <= "~")))
    return tuple(pairs)


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _unpacked(packed: str) -> bytes:
    return zlib.decompress(base64.b64decode(packed))
