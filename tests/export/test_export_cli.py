"""The command headwaiter-export, as a user meets it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import headwaiter_export
import pytest
from click.testing import CliRunner
from headwaiter_export import errors
from headwaiter_export.cli import command
from headwaiter_export.terminal import Bars
from rich.console import Console

from .conftest import Exported

pytestmark = pytest.mark.torch


def test_export_prints_a_summary(stand_in: Callable[..., Path], tmp_path: Path) -> None:
    """The table names path, size, largest difference and identical texts."""
    source = stand_in()
    result = CliRunner().invoke(command, [str(source), "--out", str(tmp_path / "name" / "1")])
    assert result.exit_code == 0, result.output
    for fact in ("name/1", "bytes", "max difference", "tolerance 0.0001", "texts identical"):
        assert fact in result.stdout


def test_json_is_all_there_is_on_stdout(stand_in: Callable[..., Path], tmp_path: Path) -> None:
    """With --json the standard output is one JSON object."""
    source = stand_in()
    result = CliRunner().invoke(command, [str(source), "--out", str(tmp_path / "name" / "1"), "--json"])
    report = json.loads(result.stdout)
    assert report["path"].endswith("name/1")
    assert report["size_bytes"] == sum(path.stat().st_size for path in (tmp_path / "name" / "1").iterdir())


@pytest.mark.parametrize(
    "fail", [errors.ToleranceExceededError("too far\nby 1"), errors.NameClashError("x"), PermissionError(13, "no")]
)
def test_expected_failure_is_one_line_and_exit_1(
    stand_in: Callable[..., Path], tmp_path: Path, fail: BaseException
) -> None:
    """An expected failure is one plain line on stderr after the progress, and exit code 1."""
    source = stand_in(fail=fail)
    result = CliRunner().invoke(command, [str(source), "--out", str(tmp_path / "name" / "1")])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("headwaiter-export: ")


def test_existing_output_needs_force(stand_in: Callable[..., Path], tmp_path: Path) -> None:
    """The second export to the same place needs --force."""
    source = stand_in()
    arguments = [str(source), "--out", str(tmp_path / "name" / "1")]
    codes = [CliRunner().invoke(command, [*arguments, *more]).exit_code for more in ([], [], ["--force"])]
    assert codes == [0, 1, 0]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["source"],
        *(["source", "--out", "n/1", "--tolerance", value] for value in ("0", "-1", "nan", "inf", "1.01", "1e9")),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    """Missing or impossible arguments are a usage error."""
    assert CliRunner().invoke(command, arguments).exit_code == 2


def test_real_export_is_quiet_about_the_tools(exported: Exported) -> None:
    """A real export in its own process tells its stages and nothing that its tools say about themselves."""
    done = exported.ended
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "load",
        "graphs",
        "comparing greedy decoding on 500 texts of sample_texts.txt and 100 texts of random tokens",
        "reference (600)",
        "parity (600)",
        "write",
    ]
    report = json.loads(done.stdout)
    assert report["texts_identical"] == 600
    assert (report["task"], report["graph"], report["max_source_tokens"]) == ("generate", "cached", 32)


def test_importing_does_not_import_torch() -> None:
    """`import headwaiter_export` and the command's --help are cheap."""
    code = "import sys, headwaiter_export, headwaiter_export.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_pinned() -> None:
    """The package exports these names, sorted, and they exist."""
    assert headwaiter_export.__all__ == ["ExportError", "Options", "export_checkpoint", "export_module"]
    assert all(hasattr(headwaiter_export, name) for name in headwaiter_export.__all__)
    with pytest.raises(AttributeError, match="nothing_here"):
        headwaiter_export.nothing_here  # noqa: B018


def test_bars_show_stages_and_notes() -> None:
    """On a terminal each stage has a bar that ends full."""
    stream = io.StringIO()
    with Bars(Console(file=stream, force_terminal=True, width=100)) as bars:
        bars.advance()
        bars.stage("parity", 2)
        bars.advance(2)
        bars.note("[hello]")
        bars.stage("write")
    assert "parity" in stream.getvalue()
    assert "2/2" in stream.getvalue()
    assert "1/1" in stream.getvalue()
    assert "[hello]" in stream.getvalue()
