"""The image and the compose file keep what docs/container.md promises; `make test` also runs the image's steps."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from headwaiter_server.config import ENV_PREFIX, ServerSettings

from deploy.dockerfile import DockerfileError, Stage, parse

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "server" / "Dockerfile"
COMPOSE = ROOT / "docker-compose.yml"
BIN = Path(sys.executable).parent
SERVICES = ("grafana", "load", "prometheus", "server")


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    return parse(DOCKERFILE)


@pytest.fixture(scope="module")
def final(stages: list[Stage]) -> Stage:
    return stages[-1]


@pytest.fixture(scope="module")
def load(stages: list[Stage]) -> Stage:
    """The load tester's final stage."""
    return next(stage for stage in stages if stage.name == "load")


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


@pytest.fixture(scope="module")
def services(composed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = composed["services"]
    assert sorted(services) == list(SERVICES)
    return services


@pytest.fixture(scope="module")
def service(services: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return services["server"]


def test_dockerfile_passes_hadolint() -> None:
    """The Dockerfile linter has nothing to say."""
    command = [str(BIN / "hadolint"), "--config", str(ROOT / "server" / "hadolint.yaml"), str(DOCKERFILE)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_file_follows_its_schema(tmp_path: Path) -> None:
    """The compose file is valid by the compose specification, and the check notices when it is not."""
    check = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, str(COMPOSE)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("read_only: true", "readonly: true"))
    assert subprocess.run([*check, str(wrong)], check=False, capture_output=True).returncode == 1


def test_images_do_not_run_as_root(final: Stage, load: Stage) -> None:
    """User and group are numbers, so that an orchestrator can see that they are not root's."""
    for stage in (final, load):
        assert stage.user is not None
        assert 0 not in stage.user


def test_final_stages_only_copy_the_environment(stages: list[Stage], final: Stage, load: Stage) -> None:
    """Nothing of the build, neither compiler nor source nor pip, gets into a final image."""
    for stage, install in ((final, "install"), (load, "install-load")):
        assert [verb for verb, _ in stage.steps if verb == "RUN"] == []
        copies = [text for verb, text in stage.steps if verb == "COPY"]
        assert copies == [f"--from={install} /opt/headwaiter /opt/headwaiter"]
        assert stage.parent == stages[0].name


def test_images_install_what_is_locked(stages: list[Stage]) -> None:
    """Each environment is of one lock file and our own wheel; nothing is installed whose hash was not known before."""
    installs = {
        stage.name: [
            part for verb, text in stage.steps if verb == "RUN" for part in text.split("&&") if " install " in part
        ]
        for stage in stages
    }
    locks = {
        stage.name: [text.split()[0] for verb, text in stage.steps if verb == "COPY" and ".lock" in text]
        for stage in stages
    }
    assert {name: files for name, files in locks.items() if files} == {
        "tools": ["server/requirements-build.lock"],
        "install-load": ["server/requirements-load.lock"],
        "install": ["server/requirements.lock"],
    }
    for name, parts in installs.items():
        of_lock = [part for part in parts if "--require-hashes --requirement " in part]
        of_wheel = [part for part in parts if "--no-deps --no-index wheels/headwaiter-*.whl" in part]
        assert len(of_lock) == len(locks[name])
        assert len(of_wheel) == (name in {"install", "install-load"})
        assert len(parts) == len(of_lock) + len(of_wheel)


def test_image_sets_only_settings_that_exist(final: Stage) -> None:
    """The server refuses settings that nobody knows, so the image must not set one."""
    names = {name.removeprefix(ENV_PREFIX).lower() for name in final.environment if name.startswith(ENV_PREFIX)}
    assert names == {"models", "listen", "metrics_listen"}
    assert names <= set(ServerSettings.model_fields)


def test_image_listens_where_it_exposes(final: Stage) -> None:
    """The exposed ports are those that the server listens on, on every interface of the container."""
    assert final.environment["HEADWAITER_LISTEN"] == f"0.0.0.0:{final.ports[0]}"
    assert final.environment["HEADWAITER_METRICS_LISTEN"] == f"0.0.0.0:{final.ports[1]}"


def test_images_start_and_check_commands_that_exist(
    final: Stage, load: Stage, services: dict[str, dict[str, Any]]
) -> None:
    """Entry points and health checks are commands of this distribution."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert final.entrypoint == ["headwaiter-server"]
    assert final.healthcheck == ["headwaiter", "health"]
    assert load.entrypoint == ["headwaiter-load"]
    checked = services["load"]["healthcheck"]["test"][1]
    assert {final.entrypoint[0], final.healthcheck[0], load.entrypoint[0], checked} <= set(scripts)


def test_build_context_holds_what_is_copied_and_nothing_else(stages: list[Stage]) -> None:
    """What the build copies is let through by .dockerignore, which hides everything else."""
    copies = [text.split() for stage in stages for verb, text in stage.steps if verb == "COPY"]
    copied = {source for *sources, _ in copies if not sources[0].startswith("--from") for source in sources}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == {each.split("/")[0] for each in copied}
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_confined(name: str, services: dict[str, dict[str, Any]]) -> None:
    """Each has a read-only root, no capabilities, no way to new privileges, limits, and a check of its health."""
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert not {"cap_add", "privileged", "network_mode", "pid", "ipc", "devices"} & set(service)
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "mem_limit", "pids_limit"} <= set(service)
    assert service["memswap_limit"] == service["mem_limit"]
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]  # noqa: S108
    assert {"test", "interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])
    assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_service_does_not_run_as_root(
    name: str, services: dict[str, dict[str, Any]], final: Stage, load: Stage
) -> None:
    """The user is a number that is not root's, of the compose file or of the image that is built here."""
    built = {"server": final.user, "load": load.user}.get(name)
    user = services[name].get("user") or ":".join(map(str, built or ()))
    assert int(user.split(":")[0]) > 0


@pytest.mark.parametrize("name", SERVICES)
def test_service_writes_to_its_volumes_only(
    name: str, services: dict[str, dict[str, Any]], composed: dict[str, Any]
) -> None:
    """What is mounted from the checkout exists and is read-only, but for reports; what is kept has a named volume."""
    mounts = services[name]["volumes"]
    for mount in mounts:
        if mount["type"] == "volume":
            assert mount["source"] in composed["volumes"]
            continue
        assert mount["bind"] == {"create_host_path": False}
        if mount["target"] == "/reports":
            continue
        assert mount["read_only"] is True
        # `models/` is made by `make up`.
        assert mount["source"] == "./models" or (ROOT / mount["source"]).exists()
    kept = {mount["source"] for mount in mounts if mount["type"] == "volume"}
    assert kept == {"prometheus": {"prometheus-data"}, "grafana": {"grafana-data"}}.get(name, set())


def test_images_of_others_are_pinned(services: dict[str, dict[str, Any]]) -> None:
    """Every image that is not built here has a tag with a whole version."""
    images = [service["image"] for service in services.values() if "build" not in service]
    assert len(images) == 2
    assert [image for image in images if not re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", image)] == []


def test_only_this_machine_reaches_the_ports(services: dict[str, dict[str, Any]]) -> None:
    """Every port is published to loopback alone, and no two share one."""
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert sorted(port.split(":")[1] for port in published) == ["3000", "8001", "8002", "9090"]


def test_services_meet_on_a_network_without_a_way_out(
    services: dict[str, dict[str, Any]], composed: dict[str, Any]
) -> None:
    """All are on the internal network; only those that publish a port, which needs one, are on another."""
    assert composed["networks"]["inside"] == {"internal": True}
    for service in services.values():
        assert service["networks"] == (["inside", "published"] if "ports" in service else ["inside"])


def test_load_generator_starts_only_when_it_is_asked_for(services: dict[str, dict[str, Any]]) -> None:
    """It is in a profile of its own, is not started again when it has ended, and waits for a server that is well."""
    profiles = {name: service["profiles"] for name, service in services.items() if "profiles" in service}
    assert profiles == {"load": ["load"]}
    assert services["load"]["restart"] == "no"
    assert services["load"]["depends_on"] == {"server": {"condition": "service_healthy"}}
    assert services["load"]["build"] == {"context": ".", "dockerfile": "server/Dockerfile", "target": "load"}


def test_password_is_nowhere_in_the_compose_file(services: dict[str, dict[str, Any]]) -> None:
    """Grafana's administrator gets a password from outside, and without one nothing starts."""
    assert services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_ADMIN_PASSWORD:?")
    assert services["grafana"]["environment"]["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_service_agrees_with_the_image(service: dict[str, Any], final: Stage) -> None:
    """The compose file mounts, publishes and checks what the image names, and only for this machine."""
    assert service["build"]["dockerfile"] == "server/Dockerfile"
    assert [mount["target"] for mount in service["volumes"]] == [final.environment["HEADWAITER_MODELS"]]
    assert service["ports"] == [f"127.0.0.1:{port}:{port}" for port in final.ports]
    assert service["healthcheck"]["test"] == ["CMD", *final.healthcheck]


def test_service_may_drain_before_it_is_killed(service: dict[str, Any]) -> None:
    """Docker waits for longer than the server's lame-duck and drain times together."""
    fields = ServerSettings.model_fields
    needed_seconds = fields["lame_duck_seconds"].default + fields["drain_seconds"].default
    assert float(service["stop_grace_period"].removesuffix("s")) > needed_seconds


def test_dockerfile_reader_refuses_what_it_does_not_understand(tmp_path: Path) -> None:
    """A new kind of instruction must be taught to the proof before it can be used."""
    path = tmp_path / "Dockerfile"
    path.write_text("FROM base\nVOLUME /data\n")
    with pytest.raises(DockerfileError, match="VOLUME is not understood"):
        parse(path)
    path.write_text("FROM base\nUSER headwaiter\n")
    with pytest.raises(DockerfileError, match="not numeric"):
        parse(path)
