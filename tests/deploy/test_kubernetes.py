"""The Kubernetes manifests: what the schemas of Kubernetes take, and what docs/load-balancing.md promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]
from headwaiter_server import app
from headwaiter_server.config import ServerSettings, load_settings

from deploy.dockerfile import parse

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS: list[dict[str, Any]] = list(
    yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "headwaiter.yaml").read_text())
)
BY_KIND = {manifest["kind"]: manifest for manifest in MANIFESTS}
DEPLOYMENT = BY_KIND["Deployment"]["spec"]
POD = DEPLOYMENT["template"]["spec"]
(SERVER,) = POD["containers"]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> ServerSettings:
    """What the server makes of its environment in the pod; it refuses a setting that it does not know."""
    instructions = parse(ROOT / "server" / "Dockerfile")[-1].environment
    for name, value in instructions.items():
        if name.startswith("HEADWAITER_"):
            monkeypatch.setenv(name, value)
    for variable in SERVER["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    return load_settings([])[0]


# The newest, and the oldest with probes by gRPC.
@pytest.mark.parametrize("version", [kubernetes_validate.latest_version(), "1.27"])
@pytest.mark.parametrize("kind", BY_KIND)
def test_kubernetes_takes_them(kind: str, version: str) -> None:
    """Every field is one that Kubernetes knows, of its type."""
    kubernetes_validate.validate(BY_KIND[kind], version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    """The schemas are strict: a misspelt field is an error."""
    misspelt = {**BY_KIND["Service"], "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(misspelt, kubernetes_validate.latest_version(), strict=True)


def test_nothing_is_killed_while_it_drains(settings: ServerSettings) -> None:
    """The grace time covers every step of the server's own end."""
    last = app._LAST_ANSWERS_SECONDS + app._LAST_RUNS_SECONDS + app._LAST_SPANS_SECONDS
    assert POD["terminationGracePeriodSeconds"] > settings.lame_duck_seconds + settings.drain_seconds + last
    # Longer than readiness takes to turn, so that calls are taken until nobody sends any.
    probe = SERVER["readinessProbe"]
    assert settings.lame_duck_seconds > probe["periodSeconds"] * probe["failureThreshold"]


def test_a_rolling_update_always_has_all_servers() -> None:
    """No server goes before another one has come, and clients have had time to find it."""
    assert DEPLOYMENT["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    # Clients look again at most 5 s later.
    assert DEPLOYMENT["minReadySeconds"] > 5


def test_the_server_is_confined() -> None:
    """Not root, nothing to write to but what is mounted, no capabilities and no way to any, no token of the cluster."""
    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert SERVER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["automountServiceAccountToken"] is False
    assert POD["enableServiceLinks"] is False
    ids = (POD["securityContext"]["runAsUser"], POD["securityContext"]["runAsGroup"])
    assert parse(ROOT / "server" / "Dockerfile")[-1].user == ids


def test_ports_and_labels_agree(settings: ServerSettings) -> None:
    """The service finds the pods, and both name the ports that the server listens on."""
    labels = DEPLOYMENT["template"]["metadata"]["labels"]
    for selector in (
        DEPLOYMENT["selector"]["matchLabels"],
        BY_KIND["Service"]["spec"]["selector"],
        BY_KIND["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    ports = {port["name"]: port["containerPort"] for port in SERVER["ports"]}
    assert settings.listen == [f"0.0.0.0:{ports['grpc']}"]
    assert settings.metrics_listen == f"0.0.0.0:{ports['metrics']}"
    assert {port["targetPort"]: port["port"] for port in BY_KIND["Service"]["spec"]["ports"]} == ports
    assert all(SERVER[probe]["grpc"]["port"] == ports["grpc"] for probe in SERVER if probe.endswith("Probe"))


def test_what_the_settings_name_is_mounted(settings: ServerSettings) -> None:
    """The folders that the settings name are there, and each mount has its volume."""
    mounts = {mount["mountPath"]: mount for mount in SERVER["volumeMounts"]}
    assert mounts[str(settings.models)]["readOnly"]
    assert not mounts[str(settings.calibration_cache)].get("readOnly")
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in POD["volumes"]}
