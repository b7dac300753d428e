"""Values made of files: read again when the files change, kept when what they hold cannot be taken."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import structlog
from fakes import FakeClock
from headwaiter_server.errors import ConfigError
from headwaiter_server.rereading import LOOK_SECONDS, Reread
from structlog.testing import capture_logs


class Kept:
    """A file whose words are the value; `bad` in it cannot be taken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reads = 0
        self.clock = FakeClock()
        self.write("first")
        self.value = Reread("the words", [path], self.read, self.clock)

    def write(self, text: str) -> None:
        self.path.write_text(text)

    def read(self) -> str:
        self.reads += 1
        text = self.path.read_text()
        if "bad" in text:
            raise ConfigError(f"--words: {len(text)} letters")
        return text

    def later(self) -> str:
        """The value when it is looked at the next time."""
        self.clock.advance(LOOK_SECONDS)
        return self.value.current()


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    structlog.reset_defaults()
    return Kept(tmp_path / "words")


def test_what_does_not_change_is_read_once(kept: Kept) -> None:
    assert [kept.later() for _ in range(5)] == ["first"] * 5
    assert kept.reads == 1


def test_a_change_is_seen_within_a_second_and_read_once(kept: Kept) -> None:
    """Until the next look there is the old value, however often it is asked for."""
    kept.write("second")
    assert kept.value.current() == "first"
    assert [kept.later() for _ in range(3)] == ["second"] * 3
    assert kept.reads == 2


def test_another_file_in_its_place_is_a_change_though_it_looks_alike(kept: Kept, tmp_path: Path) -> None:
    """The same size and time: what a link that is turned leads to may have both."""
    times = kept.path.stat()
    other = tmp_path / "other"
    other.write_text("other")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(kept.path)
    assert kept.later() == "other"


def test_what_cannot_be_taken_is_logged_once_and_the_old_value_stays(kept: Kept) -> None:
    """And when it can be again, that is taken, though it has the size and the time of the broken file."""
    with capture_logs() as log:
        kept.write("bad one")
        assert [(kept.later(), kept.value.failing) for _ in range(3)] == [("first", True)] * 3
        times = kept.path.stat()
        kept.write("good on")
        os.utime(kept.path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert (kept.later(), kept.value.failing) == ("good on", False)
    assert [(line["event"], line.get("reason")) for line in log] == [
        ("changed_files_not_taken", "--words: 7 letters"),
        ("changed_files_taken", None),
    ]


def test_another_problem_is_logged_too(kept: Kept) -> None:
    with capture_logs() as log:
        for text in ("bad", "worse and bad"):
            kept.write(text)
            kept.later()
    assert [line["reason"] for line in log] == ["--words: 3 letters", "--words: 13 letters"]


def test_a_fault_in_reading_is_not_the_end(kept: Kept) -> None:
    """Whoever asks gets the last value, and what was changed is tried again; its words may be secret, its kind not."""

    def read() -> str:
        text = kept.path.read_text()
        if text == "odd":
            raise ZeroDivisionError("secret")
        return text

    value = Reread("the words", [kept.path], read, kept.clock)
    with capture_logs() as log:
        kept.write("odd")
        for _ in range(3):
            kept.clock.advance(LOOK_SECONDS)
            assert (value.current(), value.failing) == ("first", True)
        times = kept.path.stat()
        kept.write("new")
        os.utime(kept.path, ns=(times.st_atime_ns, times.st_mtime_ns))
        kept.clock.advance(LOOK_SECONDS)
        assert (value.current(), value.failing) == ("new", False)
    assert [line["event"] for line in log] == ["changed_files_not_taken", "changed_files_taken"]
    assert log[0]["reason"].startswith("a fault of this server: ZeroDivisionError in read, line ")
    assert "secret" not in str(log)


def test_a_file_that_goes_leaves_its_value(kept: Kept, tmp_path: Path) -> None:
    """Until it is back: as files are for a moment while something replaces them."""
    away = tmp_path / "away"

    def read() -> str:
        try:
            return kept.path.read_text()
        except OSError as error:
            raise ConfigError(f"--words: {error.strerror}") from error

    value = Reread("the words", [kept.path], read, kept.clock)
    kept.path.rename(away)
    kept.clock.advance(LOOK_SECONDS)
    assert value.current() == "first"
    away.rename(kept.path)
    kept.clock.advance(LOOK_SECONDS)
    assert (value.current(), value.failing) == ("first", False)


def test_who_asks_while_another_looks_does_not_wait(kept: Kept) -> None:
    """A file system that hangs holds up one thread, not all."""
    reading, go_on = threading.Event(), threading.Event()

    def read() -> str:
        if kept.path.read_text() == "second":
            reading.set()
            assert go_on.wait(30)
        return kept.path.read_text()

    value = Reread("the words", [kept.path], read, kept.clock)
    kept.write("second")
    kept.clock.advance(LOOK_SECONDS)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(value.current()))
    thread.start()
    assert reading.wait(30)
    kept.clock.advance(LOOK_SECONDS)
    assert value.current() == "first"
    go_on.set()
    thread.join()
    assert (found, value.current()) == (["second"], "second")


def test_what_cannot_be_made_at_first_is_an_error(tmp_path: Path) -> None:
    def read() -> str:
        raise ConfigError("--words: none")

    with pytest.raises(ConfigError, match="--words: none"):
        Reread("the words", [tmp_path / "words"], read)
