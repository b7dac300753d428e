"""Runs inside the sandbox that stands for the container: checks how tight it is, then a server's life."""

# Scripts, which print; not a package.
# ruff: noqa: INP001, T201

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

START_SECONDS = 60.0
STOP_SECONDS = 60.0


def main() -> int:
    """Check everything; returns the exit code."""
    parser = argparse.ArgumentParser(description="Check the sandbox, then start, call and stop the server.")
    parser.add_argument("--ports", nargs=2, type=int, required=True, help="gRPC and metrics port")
    parser.add_argument("--healthcheck", nargs="+", required=True, help="command that succeeds when the server is well")
    parser.add_argument("--entrypoint", nargs="+", required=True, help="command that runs the server")
    arguments = parser.parse_args()
    check_confinement()
    process = subprocess.Popen(arguments.entrypoint, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        check_life(process, arguments.healthcheck, *arguments.ports)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    return 0


def check_confinement() -> None:
    """Check that this is neither root nor able to become it, that nothing can be written or trained."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    require(os.getuid() != 0 and os.getgid() != 0, "the user is not root")
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        require(int(status[name], 16) == 0, f"{name} is empty")
    require(status["NoNewPrivs"] == "1", "no new privileges can be had")
    for folder in ("/", sys.prefix, "/usr", os.environ["HEADWAITER_MODELS"]):
        require(not os.access(folder, os.W_OK), f"{folder} cannot be written")
    for module in ("torch", "onnx", "pip", "huggingface_hub"):
        require(importlib.util.find_spec(module) is None, f"there is no {module}")


def check_life(process: subprocess.Popen[str], healthcheck: list[str], grpc_port: int, metrics_port: int) -> None:
    """Check that the server gets ready, is well, answers, changes versions and stops."""
    # Imported here: the checks of the sandbox come first and need nothing that was installed.
    from headwaiter import Client  # noqa: PLC0415

    output = process.stdout
    require(output is not None, "the server's output is connected")
    line = output.readline().strip() if output else ""
    require(line.startswith("ready "), f"it is ready: {line!r}")
    require(f":{grpc_port} " in line and f":{metrics_port} " in line, "it listens on the exposed ports")
    require(subprocess.run(healthcheck, check=False, timeout=10).returncode == 0, "its health check passes")  # noqa: S603
    with Client(f"127.0.0.1:{grpc_port}") as client:
        generation = client.generate(["onomatopoeia"], timeout_seconds=30).generations[0]
    require(bool(generation.text), f"it answers a call: {generation.text}")
    check_swaps(f"127.0.0.1:{grpc_port}")
    with urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10) as response:
        require(b"headwaiter_requests_total{" in response.read(), "it shows its metrics")
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = process.wait(STOP_SECONDS)
    require(code == 0, f"it drained and exited with {code} after {time.monotonic() - started:.1f} s")


def check_swaps(target: str) -> None:
    """Check that another version of a model takes over, and is rolled back, where nothing can be written."""
    import grpc  # noqa: PLC0415 - as above
    from headwaiter import Client  # noqa: PLC0415 - as above
    from headwaiter_proto.inference import grpc_service_pb2, grpc_service_pb2_grpc  # noqa: PLC0415 - as above

    with grpc.insecure_channel(target) as channel, Client(target) as client:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for policy, expected in (('{"specific": {"versions": [1]}}', "1"), ("{}", "2")):
            request = grpc_service_pb2.RepositoryModelLoadRequest(model_name="pronounce")
            if policy != "{}":
                request.parameters["config"].string_param = f'{{"version_policy": {policy}}}'
            stub.RepositoryModelLoad(request, timeout=60)
            index = stub.RepositoryIndex(grpc_service_pb2.RepositoryIndexRequest(ready=True), timeout=10)
            serving = [each.version for each in index.models if each.name == "pronounce"]
            text = client.generate(["onomatopoeia"], timeout_seconds=30).generations[0].text
            require(serving == [expected] and bool(text), f"version {expected} has taken over and answers")


def require(held: bool, what: str) -> None:  # noqa: FBT001
    """Report a check.

    Raises:
        SystemExit: It failed.
    """
    print(f"probe: {'ok' if held else 'FAILED'}: {what}", flush=True)
    if not held:
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
