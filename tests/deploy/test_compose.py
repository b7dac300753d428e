"""The compose file's command lines, run outside of containers with the files that it mounts."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode
from urllib.request import urlopen

import psutil
import pytest
import yaml  # type: ignore[import-untyped]

from deploy.dockerfile import parse

from .composed import BIN, COMPOSE, PASSWORD_VARIABLE, ROOT, Service, checked, path_only, read, rewritten, services

ANY_PORT = "127.0.0.1:0"
SCRAPED = "server:8002"
ANSWERED = 'headwaiter_requests_total{code="OK",method="headwaiter.v1.InferenceService/Generate"}'
READY = re.compile(r"^ready grpc=(\S+) metrics=(\S+) ")
WAIT_SECONDS = 60

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Running:
    """Something that was started by its service's command line.

    Attributes:
        service: The service.
        process: Its process.
        addresses: Where it listens, in the order of the service's ports.
    """

    service: Service
    process: subprocess.Popen[str]
    addresses: tuple[str, ...]


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Service]:
    """The services."""
    return services(tmp_path_factory.mktemp("compose"))


@contextmanager
def started(command: list[str], environment: dict[str, str], **options: Any) -> Iterator[subprocess.Popen[str]]:  # noqa: ANN401 - those of Popen
    """A process that is ended with the block."""
    with subprocess.Popen(command, env=environment, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def awaited(ask: Callable[[], ValueT | None], process: subprocess.Popen[str], what: str) -> ValueT:
    """Ask until there is an answer; fails when the process has ended or time is up."""
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, f"it ended before {what}"
        if (answer := ask()) is not None:
            return answer
        time.sleep(0.1)
    pytest.fail(f"no answer: {what}")


def listening(process: subprocess.Popen[str]) -> Callable[[], str | None]:
    """Asks where a process listens."""

    def ask() -> str | None:
        sockets = psutil.Process(process.pid).net_connections(kind="tcp")
        ports = {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN}
        return f"127.0.0.1:{ports.pop()}" if ports else None

    return ask


def asked(address: str, path: str, **query: str) -> Any:  # noqa: ANN401 - JSON
    """The data of one answer of Prometheus's API."""
    with urlopen(f"http://{address}/api/v1/{path}?{urlencode(query)}", timeout=10) as response:
        return json.load(response)["data"]


@pytest.fixture(scope="module")
def server(composed: dict[str, Service], models_dir: Path) -> Iterator[Running]:
    """The image's entry point with the image's and the service's variables, on ports and models of this machine."""
    stage, service = parse(ROOT / "server" / "Dockerfile")[-1], composed["server"]
    variables = stage.environment | service.environment
    assert (ROOT / "models").resolve() == service.outside(variables["HEADWAITER_MODELS"]).resolve()
    variables |= {"HEADWAITER_MODELS": str(models_dir), **path_only()}
    variables |= {"HEADWAITER_LISTEN": ANY_PORT, "HEADWAITER_METRICS_LISTEN": ANY_PORT}
    command = [*stage.entrypoint, *service.command]
    command[0] = str(BIN / command[0])
    with started(command, variables, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        ready = READY.match(process.stdout.readline())
        assert ready is not None, "the server ended before it was ready"
        yield Running(service, process, ready.groups())


@pytest.fixture(scope="module")
def prometheus(
    composed: dict[str, Service], server: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Debian's Prometheus with the service's arguments and files; the scraped address is another, and nothing else."""
    service, folder = composed["prometheus"], tmp_path_factory.mktemp("prometheus")
    (config,) = (word.partition("=")[2] for word in service.command if word.startswith("--config.file="))
    text = service.outside(config).read_text()
    assert text.count(SCRAPED) == 1
    (folder / "prometheus.yml").write_text(text.replace(SCRAPED, server.addresses[1]))
    shutil.copytree(service.outside(f"{Path(config).parent}/rules"), folder / "rules")
    own = {config: str(folder / "prometheus.yml"), "/prometheus": str(folder / "data"), "0.0.0.0:9090": ANY_PORT}
    binary = shutil.which("prometheus")
    assert binary is not None, "Debian's package prometheus is not installed"
    with (folder / "log").open("w") as log:
        command = [binary, *rewritten(service.command, own)]
        with started(command, path_only(), cwd=folder, stderr=log) as process:
            address = awaited(listening(process), process, "Prometheus listens")

            def well() -> bool | None:
                return (
                    True if checked(service, {"http://127.0.0.1:9090/-/ready": f"http://{address}/-/ready"}) else None
                )

            awaited(well, process, "Prometheus passes its health check")
            yield Running(service, process, (address,))


def test_compose_file_is_understood(composed: dict[str, Service]) -> None:
    """Something that runs compose files reads every service, and leaves no variable open."""
    raw = yaml.safe_load(COMPOSE.read_text())["services"]
    assert set(composed) == set(raw)
    for name, service in composed.items():
        assert service.fields["read_only"] is True, name
        assert not [value for value in service.environment.values() if "$" in value]


def test_nothing_starts_without_a_password(tmp_path: Path) -> None:
    """Without one the file is refused, and the words say what to do."""
    done = read(tmp_path)
    assert done.returncode != 0
    assert PASSWORD_VARIABLE in done.stderr
    assert "make up" in done.stderr


def test_server_is_well(server: Running) -> None:
    """The server's health check passes for the server that its command line started, and for no other address."""
    variables = path_only() | {"HEADWAITER_CLIENT_TARGET": server.addresses[0]}
    command = [str(BIN / server.service.healthcheck[0]), *server.service.healthcheck[1:]]
    codes = [
        subprocess.run(command, env=each, capture_output=True, check=False, timeout=30).returncode
        for each in (variables, variables | {"HEADWAITER_CLIENT_TARGET": "127.0.0.1:1"})
    ]
    assert codes == [0, 1]


def test_load_generator_is_well_while_the_server_is(server: Running, composed: dict[str, Service]) -> None:
    """Its health check asks the server that it loads."""
    assert checked(composed["load"], {"server:8001": server.addresses[0]})
    assert not checked(composed["load"], {"server:8001": "127.0.0.1:1"})


def test_prometheus_scrapes_the_server(prometheus: Running) -> None:
    """Its one target is up, and what it scraped is the server's."""
    address = prometheus.addresses[0]

    def up() -> list[str] | None:
        targets = asked(address, "targets")["activeTargets"]
        return [target["labels"]["job"] for target in targets if target["health"] == "up"] or None

    assert awaited(up, prometheus.process, "the target is up") == ["headwaiter"]
    assert len(asked(address, "targets")["activeTargets"]) == 1

    def told() -> list[dict[str, Any]] | None:
        """A target is up a moment before what was scraped of it can be asked for."""
        found: list[dict[str, Any]] = asked(address, "query", query="headwaiter_build_info")["result"]
        return found or None

    (info,) = awaited(told, prometheus.process, "what was scraped can be asked for")
    assert info["metric"]["job"] == "headwaiter"


def test_prometheus_has_every_rule(prometheus: Running, rules: list[dict[str, Any]]) -> None:
    """What the service mounts, its configuration loads: all recording rules and alerts, and none in error."""
    groups = asked(prometheus.addresses[0], "rules")["groups"]
    loaded = [rule["name"] for group in groups for rule in group["rules"]]
    assert sorted(loaded) == sorted(rule.get("record") or rule["alert"] for rule in rules)
    assert not [rule for group in groups for rule in group["rules"] if rule["health"] == "err"]


LOAD_STAGE = next(stage for stage in parse(ROOT / "server" / "Dockerfile") if stage.name == "load")


def load_command(service: Service, server: Running, folder: Path, seconds: int) -> list[str]:
    """The load generator's command line, for a server and a folder of this machine, and a length."""
    own = {
        "server:8001": server.addresses[0],
        "http://server:8002/metrics": f"http://{server.addresses[1]}/metrics",
        "60": str(seconds),
        "/reports/load.json": str(folder / "load.json"),
        "/reports/load.html": str(folder / "load.html"),
    }
    return [str(BIN / LOAD_STAGE.entrypoint[0]), *LOAD_STAGE.entrypoint[1:], *rewritten(service.command, own)]


def test_load_generator_loads_and_prometheus_sees_it(
    server: Running, prometheus: Running, composed: dict[str, Service], tmp_path: Path
) -> None:
    """Its command line sends calls that are all answered, writes both reports, and Prometheus counts as many calls."""
    command = load_command(composed["load"], server, tmp_path, seconds=3)  # a minute would tell no more
    done = subprocess.run(
        command, env=path_only(), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "load.html").read_text().startswith("<!doctype html>")
    result = json.loads((tmp_path / "load.json").read_text())
    assert result["scheduled"] == result["answered"] > 10
    assert (result["failed"], result["server"]["problem"]) == (0, "")

    def counted() -> float | None:
        """What both count, once Prometheus has scraped the last call; the warm-up's are among them."""
        query = f"sum({ANSWERED})"
        values = [float(each["value"][1]) for each in asked(prometheus.addresses[0], "query", query=query)["result"]]
        return next((value for value in values if value == answered(server.addresses[1])), None)

    assert awaited(counted, prometheus.process, "Prometheus counts every call") >= result["answered"]


def test_a_load_generator_that_is_stopped_reports_what_there_is(
    server: Running, composed: dict[str, Service], tmp_path: Path
) -> None:
    """The signal that its container is stopped with is one that it answers to."""
    command = load_command(composed["load"], server, tmp_path, seconds=60)
    before = answered(server.addresses[1])
    with started(command, path_only(), cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        # Of 20 calls a second, 40 and some more are its warm-up's.
        awaited(
            lambda: True if answered(server.addresses[1]) > before + 80 else None, process, "it is in its measured part"
        )
        process.send_signal(signal.Signals[LOAD_STAGE.stop_signal])
        assert process.wait(WAIT_SECONDS) == 128 + signal.SIGINT
    result = json.loads((tmp_path / "load.json").read_text())
    assert result["answered"] > 0
    assert not result["finished"]


def answered(address: str) -> float:
    """Calls that the server says it has answered."""
    with urlopen(f"http://{address}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    name, _, rest = ANSWERED.partition("{")
    found = [
        line for line in lines if line.startswith(name + "{") and all(each in line for each in rest[:-1].split(","))
    ]
    return sum(float(line.rpartition(" ")[2]) for line in found)
