"""Damage to manifests: values that no exporter writes, and what is no manifest at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from .hostile_places import Mutation

if TYPE_CHECKING:
    from .hostile_bundles import Draft

_VALUES: Sequence[Any] = [
    -1, 0, 1, 2, 1 << 20, (1 << 20) + 1, (1 << 31) - 1, 1 << 31, (1 << 63) - 1, 1 << 63, 1 << 64, 1e308, float("nan"),
    float("inf"), -0.5, 1e-300, "", "0", "-1", "NaN", "x" * 10_000, "\0", "\ud800", None, True, [], {}, [[]], [None],
]  # fmt: skip


def _leaves(node: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:  # noqa: ANN401 - parsed JSON
    """Every place in parsed JSON, as its container and its key in there."""
    items: Iterator[tuple[Any, Any]] = iter(
        node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    )
    for key, value in list(items):
        found.append((node, key))
        _leaves(value, found)
    return found


def any_place(rng: Random, tree: Any) -> tuple[Any, Any]:  # noqa: ANN401 - parsed JSON
    """A place in parsed JSON; the small ones are not lost among the many entries of a vocabulary."""
    node = tree
    while True:
        places = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(places)
        if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < 0.2:
            return node, key
        node = node[key]


def other_value(rng: Random, draft: Draft) -> None:
    node, key = rng.choice(_leaves(draft.manifest, []))
    node[key] = rng.choice(_VALUES)


def number_out_of_range(rng: Random, draft: Draft) -> None:
    numbers = [
        (node, key) for node, key in _leaves(draft.manifest, []) if isinstance(node[key], (int, float)) or key == "id"
    ]
    if not numbers:
        return other_value(rng, draft)
    node, key = rng.choice(numbers)
    node[key] = rng.choice([-1, 0, 1 << 20, (1 << 31) - 1, -(1 << 31), 1 << 63, 1e300, float("nan")])
    return None


def field_left_out(rng: Random, draft: Draft) -> None:
    node, key = rng.choice(_leaves(draft.manifest, []))
    del node[key]


def entry_twice(rng: Random, draft: Draft) -> None:
    lists = [node[key] for node, key in _leaves(draft.manifest, []) if isinstance(node[key], list) and node[key]]
    chosen = rng.choice(lists)
    chosen.extend([rng.choice(chosen)] * rng.choice([1, 1, 10_000]))


def unknown_field(rng: Random, draft: Draft) -> None:
    nodes = [draft.manifest, *(n[k] for n, k in _leaves(draft.manifest, []) if isinstance(n[k], dict))]
    rng.choice(nodes)["surprise"] = rng.choice(_VALUES)


def other_task(rng: Random, draft: Draft) -> None:
    tasks = ["TASK_EMBED", "TASK_CLASSIFY", "TASK_TAG", "TASK_RERANK", "TASK_GENERATE", "TASK_TENSOR", "TASK_X", 99]
    draft.manifest["task"] = rng.choice(tasks)


def other_graph_kind(rng: Random, draft: Draft) -> None:
    draft.manifest["graphKind"] = rng.choice(
        ["GRAPH_KIND_PACKED", "GRAPH_KIND_PADDED", "GRAPH_KIND_CACHED", "GRAPH_KIND_UNSPECIFIED", 7]
    )


def other_limits(rng: Random, draft: Draft) -> None:
    limits = draft.manifest.setdefault("limits", {})
    limits[rng.choice(["maxSourceTokens", "maxNewTokens", "maxTotalTokens"])] = rng.choice(
        [-1, 0, 1, 1 << 14, 1 << 20, (1 << 31) - 1]
    )


def bits_of_the_text(rng: Random, draft: Draft) -> None:
    content = bytearray(json.dumps(draft.manifest).encode())
    for _ in range(rng.choice([1, 2, 16])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    draft.manifest_bytes = bytes(content)


def no_manifest(rng: Random, draft: Draft) -> None:
    draft.manifest_bytes = rng.choice(
        [
            b"",
            b"{}",
            b"[]",
            b"null",
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'{"formatVersion": 1' + b"0" * 100_000 + b"}",
            b"{" + b" " * (17 << 20) + b"}",
            json.dumps(draft.manifest).encode()[: rng.randrange(500)],
        ]
    )


def same_key_twice(rng: Random, draft: Draft) -> None:
    text = json.dumps(draft.manifest)
    draft.manifest_bytes = (text[:-1] + ', "formatVersion": 1, "files": []}').encode()


MANIFEST_MUTATIONS: Sequence[Mutation] = [
    other_value,
    other_value,
    other_value,
    number_out_of_range,
    number_out_of_range,
    field_left_out,
    field_left_out,
    entry_twice,
    unknown_field,
    other_task,
    other_graph_kind,
    other_limits,
    bits_of_the_text,
    bits_of_the_text,
    no_manifest,
    same_key_twice,
]
