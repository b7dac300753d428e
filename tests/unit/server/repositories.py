"""What would serve of a repository."""

from __future__ import annotations

from pathlib import Path

from headwaiter_server.config.version_policy import VersionPolicies
from headwaiter_server.lifecycle.repository import BundleLocation, find_models

_POLICIES = VersionPolicies()


def find_bundles(repository: Path) -> list[BundleLocation]:
    """The versions that serve unless settings say otherwise."""
    return [bundle for model in find_models(repository) for bundle in model.bundles(model.policy(_POLICIES))]
