"""The image and the compose file keep what docs/container.md promises; `make test` also runs the image's steps."""

from __future__ import annotations

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


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    return parse(DOCKERFILE)


@pytest.fixture(scope="module")
def final(stages: list[Stage]) -> Stage:
    return stages[-1]


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    service: dict[str, Any] = loaded["services"]["server"]
    return service


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


def test_image_does_not_run_as_root(final: Stage) -> None:
    """User and group are numbers, so that an orchestrator can see that they are not root's."""
    assert final.user is not None
    assert 0 not in final.user


def test_final_stage_only_copies_the_environment(stages: list[Stage], final: Stage) -> None:
    """Nothing of the build, neither compiler nor source nor pip, gets into the final image."""
    assert [verb for verb, _ in final.steps if verb == "RUN"] == []
    assert [text for verb, text in final.steps if verb == "COPY"] == ["--from=install /opt/headwaiter /opt/headwaiter"]
    assert final.parent == stages[0].name


def test_image_installs_the_server_extra_alone(stages: list[Stage]) -> None:
    """The export extra, which is torch, is not in the image, and every installation is pinned."""
    runs = [text for stage in stages for verb, text in stage.steps if verb == "RUN"]
    installs = [part for text in runs for part in text.split("&&") if " install " in part]
    assert sum("[server]" in part for part in installs) == 1
    assert not [part for part in installs if "export" in part or "torch" in part]
    assert [part for part in installs if "--constraint constraints.txt" not in part] == []


def test_image_sets_only_settings_that_exist(final: Stage) -> None:
    """The server refuses settings that nobody knows, so the image must not set one."""
    names = {name.removeprefix(ENV_PREFIX).lower() for name in final.environment if name.startswith(ENV_PREFIX)}
    assert names == {"models", "listen", "metrics_listen"}
    assert names <= set(ServerSettings.model_fields)


def test_image_listens_where_it_exposes(final: Stage) -> None:
    """The exposed ports are those that the server listens on, on every interface of the container."""
    assert final.environment["HEADWAITER_LISTEN"] == f"0.0.0.0:{final.ports[0]}"
    assert final.environment["HEADWAITER_METRICS_LISTEN"] == f"0.0.0.0:{final.ports[1]}"


def test_image_starts_and_checks_commands_that_exist(final: Stage) -> None:
    """Entry point and health check are commands of this distribution."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert final.entrypoint == ["headwaiter-server"]
    assert final.healthcheck == ["headwaiter", "health"]
    assert {final.entrypoint[0], final.healthcheck[0]} <= set(scripts)


def test_build_context_holds_what_is_copied_and_nothing_else(stages: list[Stage]) -> None:
    """What the build copies is let through by .dockerignore, which hides everything else."""
    copies = [text.split() for stage in stages for verb, text in stage.steps if verb == "COPY"]
    copied = {source for *sources, _ in copies if not sources[0].startswith("--from") for source in sources}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)


def test_service_is_confined(service: dict[str, Any]) -> None:
    """The service has a read-only root, no capabilities, no way to new privileges, and limits."""
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "mem_limit", "pids_limit"} <= set(service)
    assert [mount for mount in service["volumes"] if not mount["read_only"]] == []
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]  # noqa: S108


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
