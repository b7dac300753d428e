"""Values that fields are set to: those at every boundary, and those that have broken servers before."""

from __future__ import annotations

import math
import random
import struct

from google.protobuf.descriptor import FieldDescriptor
from reliability.fuzz_seeds import MODELS, TEXTS, WORD

# Stands for half of a pair of surrogates, which a Python string cannot have in a message; see `with_surrogates`.
SURROGATE = "\ue000"

_INTEGERS = sorted(
    {0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 20, 21, 63, 64, 65, 100, 127, 128, 255, 256, 1023, 1024, 1025, 4096, 65_535}
    | {
        sign * (1 << bits) + more
        for bits in (15, 16, 31, 32, 53, 62, 63, 64)
        for sign in (1, -1)
        for more in (-1, 0, 1)
    }
    | {-1, -2}
)
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(1 << 31), (1 << 31) - 1),
}
_IN_RANGE = {kind: tuple([each for each in _INTEGERS if low <= each <= high]) for kind, (low, high) in _RANGES.items()}
_FLOATS = (
    *(0.0, -0.0, 0.5, 0.9, 1.0, 1.5, -1.0, 2.0, 10.0, 10.1, 100.0, 100.1, 0.01, 0.009, 1e-45, 1e-30, 3.4e38),
    *(math.inf, -math.inf, math.nan),
)
_SMALL = (1, 1, 2, 3, 4, 0)

_ODD = (
    *("", " ", "\0", "a\0b", "\n", "\t\r\n", "../../etc/passwd", "/etc/passwd", "..", ".", "C:\\Windows", "~root"),
    *("%s%s%n", "${HOME}", "{0}", "'; DROP TABLE models; --", "<script>", "\ufeff", "\u202e", "\uffff", "\U0010ffff"),
    *(
        "é",
        "e\u0301",
        "日本語",
        "😀",
        "👩\u200d👩\u200d👧",
        "İ",
        "ß",
        "ﬁ",
        "\u0000",
        SURROGATE,
        f"a{SURROGATE}b",
        "nan",
    ),
    *(
        "null",
        "true",
        "-1",
        "1e309",
        "0x10",
        "\uff11\uff12",
        "99999999999999999999",
        "[",
        "[]",
        '["a"]',
        "[1, 2]",
        "[1.5]",
    ),
    *("{}", "[" * 3000, '{"a":' * 2000, "\\", '"', "[null]", '["\\ud800"]', "__class__", "[CLS]", "</s>", "[MASK]"),
)
_LONG = (1000, 1025, 5000, 70_000)
_VERSIONS = ("", "1", "2", "0", "-1", "01", "1.0", "\uff11", "9" * 18, "9" * 19, "9" * 5000, "latest")
_DATATYPES = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32"),
    *("FP64", "BYTES", "STRING", "fp32", "", "FP8", "INT4"),
)
_TENSOR_NAMES = (
    *("text", "text_pair", "query", "embedding", "label", "scores", "score", "spans", "token_ids", "logprobs"),
    *("finish_reason", "alternatives", "INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1", "in_FP32", "out_BYTES", "X", "Y"),
)
_KEYS = (
    *("truncate", "prompt", "dimensions", "normalize", "raw_scores", "aggregation", "max_new_tokens", "temperature"),
    *("top_k", "top_p", "repetition_penalty", "seed", "num_beams", "num_return_sequences", "length_penalty", "stop"),
    *("stop_token_ids", "logprobs", "attention", "priority", "timeout", "sequence_id", "sequence_start", "headers"),
    *("binary_data_output", "triton_enable_empty_final_response", "triton_x", "classification", "config", "file:x"),
    *("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "unload_dependents", "trace_level"),
    *("log_verbose_level", "log_info", "log_format", "log_file"),
)
_REGIONS = ("region", "headwaiter-fuzz", "/headwaiter-fuzz", "no-such", "../shm", "sem.x")
_CONFIGS = (
    '{"version_policy": {"specific": {"versions": [1]}}}',
    '{"version_policy": {"specific": {"versions": [99]}}}',
    '{"version_policy": {"latest": {"num_versions": 4294967295}}}',
    '{"version_policy": {"all": {}}}',
    '{"version_policy": {}}',
    '{"name": "' + "n" * 60_000 + '"}',
    '{"' + "é" * 20_000 + '": 1}',
    '{"max_batch_size": 1}',
    '{"name": 1e400}',
)
# By the name of a field: what it may well be.
_BY_NAME: dict[str, tuple[str, ...]] = {
    "model": MODELS,
    "model_name": MODELS,
    "service": (*MODELS, "", "grpc.health.v1.Health"),
    "version": _VERSIONS,
    "model_version": _VERSIONS,
    "datatype": _DATATYPES,
    "name": (*_TENSOR_NAMES, *MODELS, *_REGIONS),
    "key": (*_KEYS, *_REGIONS),
    "string_param": (*_CONFIGS, *_REGIONS, *TEXTS, "query", "passage", "none", "entities"),
    "prompt": ("query", "passage", ""),
}
_WORDS = (
    *(
        *TEXTS,
        WORD,
        "the",
        "waiter",
        "walked",
        "to",
        "table",
        "soup",
        "note",
        "notes",
        "long",
        "short",
        "text",
        "first",
    ),
    *("second", "engine"),
)

_MOST_SHORT = 12


def integer(chance: random.Random, kind: int) -> int:
    """A whole number that a field of this kind can hold."""
    if kind == FieldDescriptor.CPPTYPE_ENUM and chance.random() < 0.5:
        return chance.randrange(3)
    if chance.random() < 0.4:
        return chance.choice(_SMALL)
    return chance.choice(_IN_RANGE[kind])


def number(chance: random.Random) -> float:
    """A number of floating point."""
    return chance.choice(_FLOATS)


def text(chance: random.Random, field: str) -> str:
    """A text for a field of this name."""
    likely = _BY_NAME.get(field, _WORDS)
    draw = chance.random()
    if draw < 0.6:
        return chance.choice(likely)
    if draw < 0.75:
        return " ".join(chance.choices(_WORDS, k=chance.randint(1, _MOST_SHORT)))
    if draw < 0.97:
        return chance.choice(_ODD)
    return chance.choice(("a", "word ", "é", "\0", "[", "😀")) * chance.choice(_LONG)


def binary(chance: random.Random, before: bytes) -> bytes:
    """Bytes in place of these."""
    match chance.randrange(6):
        case 0:
            return b""
        case 1:
            return before[: chance.randint(0, len(before))]
        case 2:
            return before + chance.randbytes(chance.randint(1, 9))
        case 3:  # elements of BYTES whose lengths lie
            return struct.pack("<I", chance.choice((0, 1, 5, 0xFFFFFFFF, 0x7FFFFFFF))) + before
        case 4:
            return before * chance.randint(2, 40)
        case _:
            return chance.randbytes(len(before))


def with_surrogates(data: bytes) -> bytes:
    """A message with halves of pairs of surrogates where they were wanted; both have three bytes."""
    return data.replace(SURROGATE.encode(), b"\xed\xa0\x80")
