"""The wire contract is well formed, and a change that would break callers of the last release is caught."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUF = ROOT / ".venv-proto" / "bin" / "buf"

PROTO = """\
syntax = "proto3";
package sample.v1;
message Sample {
  string kept = 1;
  string other = 2;
}
"""


def git(repository: Path, *arguments: str) -> None:
    """Run git with an identity of its own and none of this machine's settings."""
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=repository, env=environment, check=True, capture_output=True)


def breaking(repository: Path) -> subprocess.CompletedProcess[str]:
    """Compare a repository with its last tag."""
    script = str(ROOT / "proto" / "breaking.sh")
    environment = os.environ | {"BUF": str(BUF)}
    return subprocess.run([script, str(repository)], env=environment, check=False, capture_output=True, text=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit, one contract and this project's rules."""
    (tmp_path / "proto" / "sample").mkdir(parents=True)
    (tmp_path / "proto" / "sample" / "sample.proto").write_text(PROTO)
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message=Begin")
    return tmp_path


def test_contract_passes_lint() -> None:
    """`buf lint` has nothing to say of the .proto files."""
    done = subprocess.run([str(BUF), "lint"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_contract_is_compatible_with_the_last_tag() -> None:
    """The .proto files break no caller of the last tag."""
    done = breaking(ROOT)
    assert done.returncode == 0, done.stdout


def test_without_a_tag_there_is_nothing_to_break(repository: Path) -> None:
    """A repository without a tag passes and says why."""
    done = breaking(repository)
    assert (done.returncode, done.stdout) == (0, "buf breaking: no tag to compare with\n")


def test_compatible_change_passes(repository: Path) -> None:
    """A new field breaks nobody."""
    git(repository, "tag", "v0.1.0")
    proto = repository / "proto" / "sample" / "sample.proto"
    proto.write_text(PROTO.replace("}", "  string added = 3;\n}"))
    done = breaking(repository)
    assert (done.returncode, done.stdout) == (0, "buf breaking: compatible with v0.1.0\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("  string other = 2;\n", "", id="field removed"),
        pytest.param("string other = 2", "int64 other = 2", id="type changed"),
        pytest.param("string other = 2", "string another = 2", id="field renamed"),
        pytest.param("string other = 2", "string other = 3", id="number changed"),
    ],
)
def test_breaking_change_fails(repository: Path, old: str, new: str) -> None:
    """A change that an existing caller would feel, in bytes or in JSON, fails."""
    git(repository, "tag", "v0.1.0")
    proto = repository / "proto" / "sample" / "sample.proto"
    proto.write_text(PROTO.replace(old, new))
    done = breaking(repository)
    assert done.returncode != 0
    assert "sample.proto" in done.stdout


def test_the_nearest_tag_counts(repository: Path) -> None:
    """What was released is compared with the last release, not with the first, and other tags are no releases."""
    git(repository, "tag", "v0.1.0")
    proto = repository / "proto" / "sample" / "sample.proto"
    proto.write_text(PROTO.replace("  string other = 2;\n", ""))
    git(repository, "commit", "--all", "--quiet", "--message=Break")
    git(repository, "tag", "v0.2.0")
    git(repository, "tag", "trained-weights")
    assert breaking(repository).stdout == "buf breaking: compatible with v0.2.0\n"
