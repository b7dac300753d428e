"""The committed gRPC stubs are what the pinned generator makes of the .proto files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")


def generated_files(folder: Path) -> dict[str, str]:
    """Read the generated files below a folder, by their paths."""
    paths = [path for pattern in GENERATED for path in (folder / "headwaiter_proto").rglob(pattern)]
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("stubs")
    subprocess.run([str(ROOT / "proto" / "generate.sh"), str(folder)], check=True)
    return generated_files(folder)


def test_committed_stubs_are_fresh(fresh: dict[str, str]) -> None:
    """Generating again gives the same files with the same text: run `make proto` where it does not."""
    committed = generated_files(ROOT / "proto")
    assert sorted(committed) == sorted(fresh)
    stale = [name for name, text in fresh.items() if committed[name] != text]
    assert stale == []


def test_only_services_have_grpc_stubs(fresh: dict[str, str]) -> None:
    """A .proto file without a service leaves no empty _pb2_grpc.py behind."""
    services = {
        str(path.relative_to(ROOT / "proto")).replace(".proto", "_pb2_grpc.py")
        for path in (ROOT / "proto").rglob("*.proto")
        if "\nservice " in path.read_text()
    }
    assert {name for name in fresh if name.endswith("_pb2_grpc.py")} == services


def test_stubs_load_on_the_oldest_promised_protobuf(fresh: dict[str, str]) -> None:
    """The generated code asks for protobuf 5.29, the floor that the distribution promises, and for nothing newer."""
    modules = [text for name, text in fresh.items() if name.endswith("_pb2.py")]
    assert modules
    assert all("# Protobuf Python Version: 5.29." in text for text in modules)
