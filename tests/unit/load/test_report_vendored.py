"""The script that draws the plots is the published one."""

from __future__ import annotations

import hashlib
from importlib.resources import files

OURS = files("headwaiter_load") / "page_files" / "uplot"
THE_SERVERS = files("headwaiter_server") / "metrics" / "page" / "vendor" / "uplot"


def test_its_files_are_those_that_the_note_tells_of() -> None:
    note = (OURS / "VENDORED").read_text().split("\n\n")[1]
    digests = {name: digest for digest, name in (line.split() for line in note.splitlines())}
    assert {name: hashlib.sha256((OURS / name).read_bytes()).hexdigest() for name in digests} == digests
    assert {path.name for path in OURS.iterdir()} == {*digests, "VENDORED"}


def test_the_server_has_the_same_version() -> None:
    assert (OURS / "VENDORED").read_bytes() == (THE_SERVERS / "VENDORED").read_bytes()
