"""Damage to tokenizer files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from .hostile_manifests import any_place
from .hostile_places import Mutation

if TYPE_CHECKING:
    from .hostile_bundles import Draft

_TOKENIZER = "tokenizer.json"
_REGEX_BOMBS = [
    "(a+)+$",
    "(.*)*x",
    "(\\w+\\s?)+$",
    "(?=(a+))\\1*b",
    "a{1000}{1000}",
    "(" * 500 + ")" * 500,
    "[",
    "\\p{Q}",
]


def _tree(draft: Draft) -> Any:  # noqa: ANN401 - parsed JSON
    return json.loads(draft.files[_TOKENIZER])


def _keep(draft: Draft, tree: Any) -> None:  # noqa: ANN401 - parsed JSON
    draft.files[_TOKENIZER] = json.dumps(tree).encode()


def other_token_value(rng: Random, draft: Draft) -> None:
    tree = _tree(draft)
    node, key = any_place(rng, tree)
    node[key] = rng.choice([-1, 0, 1 << 40, 1e300, None, "", "x", [], {}, True, "\0"])
    _keep(draft, tree)


def token_field_left_out(rng: Random, draft: Draft) -> None:
    tree = _tree(draft)
    node, key = any_place(rng, tree)
    del node[key]
    _keep(draft, tree)


def huge_vocabulary(rng: Random, draft: Draft) -> None:
    tree = _tree(draft)
    tree["model"] = {"type": "WordLevel", "vocab": {f"word{n}": n for n in range(300_000)}, "unk_token": "word0"}
    _keep(draft, tree)


def ids_beyond(rng: Random, draft: Draft) -> None:
    """Tokens that the embedding has no row for."""
    tree = _tree(draft)
    vocabulary = tree["model"].get("vocab")
    beyond = rng.choice([100_000, (1 << 31) - 1, (1 << 32) - 1])
    if isinstance(vocabulary, dict):
        tree["model"]["vocab"] = {word: beyond - number for number, word in enumerate(vocabulary)}
    _keep(draft, tree)


def regex_bomb(rng: Random, draft: Draft) -> None:
    tree = _tree(draft)
    pattern = {"Regex": rng.choice(_REGEX_BOMBS)}
    if rng.random() < 0.5:
        tree["normalizer"] = {"type": "Replace", "pattern": pattern, "content": "a"}
    else:
        tree["pre_tokenizer"] = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    _keep(draft, tree)


def growing_text(rng: Random, draft: Draft) -> None:
    """A normalizer that makes of each character very many."""
    tree = _tree(draft)
    step = {"type": "Replace", "pattern": {"String": rng.choice(["a", "e", "o"])}, "content": "aeo" * 100}
    tree["normalizer"] = {"type": "Sequence", "normalizers": [step] * rng.choice([2, 3])}
    _keep(draft, tree)


def deep_normalizers(rng: Random, draft: Draft) -> None:
    tree = _tree(draft)
    node: Any = {"type": "Lowercase"}
    for _ in range(rng.choice([50, 120])):
        node = {"type": "Sequence", "normalizers": [node]}
    tree["normalizer"] = node
    _keep(draft, tree)


def many_added_tokens(rng: Random, draft: Draft) -> None:
    tree = _tree(draft)
    flags = {"special": True, "single_word": False, "lstrip": True, "rstrip": True, "normalized": False}
    tree["added_tokens"] = [{"id": n, "content": "a" * (n % 50) + str(n), **flags} for n in range(2000)]
    _keep(draft, tree)


def other_model(rng: Random, draft: Draft) -> None:
    tree = _tree(draft)
    tree["model"] = rng.choice(
        [
            {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]},
            {"type": "Unigram", "vocab": [["a", float("nan")]], "unk_id": 7},
            {"type": "WordPiece", "vocab": {}, "unk_token": "", "continuing_subword_prefix": "", "max_input_chars": 0},
            {"type": "WordLevel", "vocab": {}, "unk_token": "missing"},
            {"type": "Strange"},
        ]
    )  # fmt: skip
    _keep(draft, tree)


def no_tokenizer(rng: Random, draft: Draft) -> None:
    draft.files[_TOKENIZER] = rng.choice(
        [b"", b"{}", b"[]", b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 100_000, b"null"]
    )


TOKENIZER_MUTATIONS: Sequence[Mutation] = [
    other_token_value,
    other_token_value,
    token_field_left_out,
    huge_vocabulary,
    ids_beyond,
    regex_bomb,
    regex_bomb,
    growing_text,
    deep_normalizers,
    many_added_tokens,
    other_model,
    no_tokenizer,
]
