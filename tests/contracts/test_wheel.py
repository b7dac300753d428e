"""The wheel that users install holds the packages with their types and stubs, and nothing else."""

from __future__ import annotations

import re
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

import pytest

from deploy.wheel import build_wheel

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"headwaiter", "headwaiter_export", "headwaiter_load", "headwaiter_proto", "headwaiter_server"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build_wheel(tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def names(wheel: zipfile.ZipFile) -> list[PurePosixPath]:
    return [PurePosixPath(name) for name in wheel.namelist()]


def metadata(wheel: zipfile.ZipFile, file: str) -> str:
    """Read a file of the wheel's metadata."""
    (name,) = (name for name in wheel.namelist() if name.endswith(f".dist-info/{file}"))
    return wheel.read(name).decode()


def test_holds_the_packages_and_nothing_else(names: list[PurePosixPath]) -> None:
    """At the top lie the import packages and the metadata: no tests, no examples, no build scripts."""
    tops = {name.parts[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert not [name for name in names if "tests" in name.parts or name.name.startswith("test_")]
    assert not [name for name in names if "__pycache__" in name.parts]


def test_holds_every_module_of_the_tree(names: list[PurePosixPath]) -> None:
    """No module of the working tree is left behind."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = [ROOT / folder for folder in pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    modules = {str(path.relative_to(folder.parent)) for folder in folders for path in folder.rglob("*.py")}
    assert modules == {str(name) for name in names if name.suffix == ".py"}


def test_holds_the_live_page(names: list[PurePosixPath]) -> None:
    """Every file of the page that the server shows is there, with what was taken from elsewhere and its licence."""
    server = ROOT / "server"
    page = {
        str(path.relative_to(server))
        for path in (server / "headwaiter_server/metrics/page").rglob("*")
        if path.is_file()
    }
    assert {PurePosixPath(path).name for path in page} >= {"index.html", "page.js", "uPlot.iife.min.js", "LICENSE"}
    assert page <= {str(name) for name in names}


def test_every_package_is_typed(names: list[PurePosixPath]) -> None:
    """Type checkers of users see the annotations."""
    assert {name.parts[0] for name in names if name.name == "py.typed"} == PACKAGES


def test_holds_the_wire_contract(names: list[PurePosixPath]) -> None:
    """The stubs lie in the wheel with their types, beside the .proto files that other languages need."""
    files = {name.name for name in names if name.parts[:2] == ("headwaiter_proto", "v1")}
    assert files >= {
        "inference.proto",
        "inference_pb2.py",
        "inference_pb2.pyi",
        "inference_pb2_grpc.py",
        "bundle.proto",
        "bundle_pb2.py",
        "bundle_pb2.pyi",
    }


def test_torch_comes_with_the_export_extra_only(wheel: zipfile.ZipFile) -> None:
    """Neither a client nor a server asks for torch."""
    requirements = HeaderParser().parsestr(metadata(wheel, "METADATA")).get_all("Requires-Dist", [])
    torch = [line for line in requirements if re.match(r"torch\b", line)]
    assert len(torch) == 1
    assert re.search(r"""extra == ['"]export['"]""", torch[0])


def test_clients_dependencies_are_few(wheel: zipfile.ZipFile) -> None:
    """Without an extra come gRPC, protocol buffers and the command line, and nothing heavy."""
    requirements = HeaderParser().parsestr(metadata(wheel, "METADATA")).get_all("Requires-Dist", [])
    plain = {re.split(r"[^\w-]", line)[0] for line in requirements if "extra ==" not in line}
    assert plain == {"click", "googleapis-common-protos", "grpcio", "protobuf"}


def test_commands_point_at_modules_in_the_wheel(wheel: zipfile.ZipFile, names: list[PurePosixPath]) -> None:
    """Every command starts something that is in the wheel."""
    modules = re.findall(r"^[\w-]+ = ([\w.]+):\w+$", metadata(wheel, "entry_points.txt"), flags=re.MULTILINE)
    assert modules
    assert {PurePosixPath(*module.split(".")).with_suffix(".py") for module in modules} <= set(names)


def test_the_licence_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    """Who installs the wheel has the licence's text."""
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")
