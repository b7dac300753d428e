"""The rules and dashboards as they are deployed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from .promtext import grouping_labels

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@pytest.fixture(scope="session")
def rules() -> list[dict[str, Any]]:
    """Every rule of every file, in order."""
    files = [yaml.safe_load(path.read_text()) for path in sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


@pytest.fixture(scope="session")
def recorded(rules: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Names of the recording rules, and the labels that their series can have."""
    labels: dict[str, set[str]] = {}
    for rule in rules:
        if "record" in rule:
            grouped = grouping_labels(rule["expr"]) | set(rule["record"].partition(":")[0].split("_"))
            labels.setdefault(rule["record"], set()).update(grouped, rule.get("labels", {}))
    return labels


@pytest.fixture(scope="session")
def dashboards() -> dict[str, dict[str, Any]]:
    """Every dashboard's JSON, by the name of its file."""
    paths = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in paths}
