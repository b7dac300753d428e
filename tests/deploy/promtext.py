"""What a PromQL expression names: metrics, their labels and values; enough to hold it to the server's definitions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headwaiter_server.metrics import definitions

TARGET_LABELS = {"job", "instance"}
CODES = {
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "UNAUTHENTICATED",
}  # fmt: skip

_SELECTOR = re.compile(r"(?<![\w:$.])([a-zA-Z_:][\w:]*)\s*(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_LABEL_LIST = re.compile(r"\b(?:by|on|group_left|group_right|without|ignoring)\s*\(([^)]*)\)")
_STRING = re.compile(r'"[^"]*"')
_WORDS = {
    "sum", "max", "min", "avg", "count", "group", "by", "on", "and", "or", "unless", "without", "bool", "vector",
    "scalar", "rate", "increase", "histogram_quantile", "label_replace", "count_values", "clamp", "absent", "offset",
    "avg_over_time", "last_over_time", "group_left", "group_right", "round", "inf", "ignoring", "time",
}  # fmt: skip


@dataclass(frozen=True)
class Selector:
    """One metric of an expression, with its matchers: label, operator, value."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]


def selectors(expr: str) -> list[Selector]:
    """Every metric that an expression selects."""
    found = []
    for match in _SELECTOR.finditer(_without_label_lists(_without_windows(expr))):
        name, inside = match.group(1), match.group(2) or ""
        if name not in _WORDS:
            found.append(Selector(name, tuple(_MATCHER.findall(inside))))
    return found


def grouping_labels(expr: str) -> set[str]:
    """Every label that an expression groups or joins by."""
    lists = _LABEL_LIST.findall(expr)
    return {label.strip() for inside in lists for label in inside.split(",") if label.strip()}


def series_labels() -> dict[str, set[str]]:
    """The labels of every series that the server has, by its name as it is scraped."""
    labels: dict[str, set[str]] = {"up": set()}
    for definition in (*definitions.ALL, *definitions.PROCESS):
        if definition.kind == "histogram":
            labels |= {f"{definition.name}_{end}": set(definition.labels) for end in ("count", "sum")}
            labels[f"{definition.name}_bucket"] = {*definition.labels, "le"}
        else:
            labels[definition.name] = set(definition.labels)
    return {name: each | TARGET_LABELS for name, each in labels.items()}


def label_values() -> dict[tuple[str, str], set[str]]:
    """The values of labels that have only a few, by metric and label."""
    values = {
        (definition.name, label): set(allowed)
        for definition in definitions.ALL
        for label, allowed in definition.values.items()
    }
    return values | {(definitions.REQUESTS.name, "code"): CODES}


def wrong_names(expr: str, recorded: dict[str, set[str]]) -> list[str]:
    """What an expression names that does not exist.

    Args:
        expr: The expression.
        recorded: Labels of the recording rules, by their names.
    """
    known = series_labels() | recorded
    values = label_values()
    wrong = []
    reachable = set()
    for selector in selectors(expr):
        labels = known.get(selector.name)
        if labels is None:
            wrong.append(selector.name)
            continue
        reachable |= labels
        for label, operator, value in selector.matchers:
            allowed = values.get((selector.name, label))
            if label not in labels:
                wrong.append(f"{selector.name}{{{label}}}")
            elif allowed is not None and not value.startswith("$"):
                given = value.split("|") if operator in {"=~", "!~"} else [value]
                wrong += [f'{selector.name}{{{label}="{each}"}}' for each in given if each not in allowed]
    return wrong + sorted(grouping_labels(expr) - reachable)


def _without_windows(expr: str) -> str:
    return re.sub(r"\[[^\]]*\]", "", expr)


def _without_label_lists(expr: str) -> str:
    # Strings outside of braces are arguments of functions, not metrics.
    outside = re.sub(r"\{[^}]*\}|" + _STRING.pattern, lambda match: match[0] if match[0][0] == "{" else "", expr)
    return _LABEL_LIST.sub("", outside)
