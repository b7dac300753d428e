"""Small files that are kept: whole or not there, whatever a server that was killed has left beside them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from headwaiter_server.lifecycle.kept_files import keep_file


def test_what_a_killed_server_left_is_removed(tmp_path: Path) -> None:
    """A temporary file that nobody writes any more goes when the next file is kept."""
    (tmp_path / "headwaiter-abandoned.tmp").write_text("half of")
    assert keep_file([tmp_path], "kept.json", "{}") == []
    assert [each.name for each in tmp_path.iterdir()] == ["kept.json"]


def test_what_another_server_writes_stays(tmp_path: Path) -> None:
    """A temporary file that somebody has locked is being written."""
    with (tmp_path / "headwaiter-other.tmp").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert keep_file([tmp_path], "kept.json", "{}") == []
        assert Path(other.name).exists()


def test_what_others_left_stays(tmp_path: Path) -> None:
    """Files of other names are not the server's, and a pipe in the place of one does not keep it waiting."""
    (tmp_path / "notes.tmp").write_text("mine")
    os.mkfifo(tmp_path / "headwaiter-pipe.tmp")
    (tmp_path / "headwaiter-link.tmp").symlink_to(tmp_path / "notes.tmp")
    assert keep_file([tmp_path], "kept.json", "{}") == []
    assert (tmp_path / "notes.tmp").read_text() == "mine"


def test_kept_file_is_whole(tmp_path: Path) -> None:
    """It holds what was to be kept, for all to read, in place of what was kept before."""
    for text in ("old", "new"):
        assert keep_file([tmp_path], "kept.json", text) == []
    assert (tmp_path / "kept.json").read_text() == "new"
    assert (tmp_path / "kept.json").stat().st_mode & 0o777 == 0o644
