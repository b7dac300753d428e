"""The access file: what it says is understood to the letter, or refused by name and without quoting what is secret."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path

import pytest
from headwaiter_server.access.clients import Clients
from headwaiter_server.access.file import read_clients
from headwaiter_server.access.roles import Role
from headwaiter_server.access.tokens import hash_line, hash_of, new_token
from headwaiter_server.config import load_settings
from headwaiter_server.errors import ConfigError, QuotaExceededError

from .access_files import ADA, BOB, client, digest, write_access


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.toml"


def test_all_that_can_be_said_of_a_client_is_understood(path: Path) -> None:
    """Each key has its meaning, and what is left out its default."""
    more = (
        "weight = 2.5\nhighest_priority = 1\nmax_calls_per_second = 10\ncalls_burst = 20\n"
        "max_texts_per_second = 0.5\ntexts_burst = 7\n"
    )
    write_access(path, client("ada", ADA, BOB, roles='"infer", "control"', more=more), client("bob", "bob-2" * 5))
    clients = read_clients(path)
    ada, bob = clients.by_name["ada"], clients.by_name["bob"]
    assert (ada.roles, ada.weight, ada.highest_priority) == (frozenset((Role.INFER, Role.CONTROL)), 2.5, 1)
    assert ada.calls is not None
    assert ada.texts is not None
    assert (ada.calls.per_second, ada.calls.burst, ada.texts.per_second, ada.texts.burst) == (10, 20, 0.5, 7)
    assert (bob.roles, bob.weight, bob.highest_priority, bob.calls, bob.texts) == (
        frozenset((Role.INFER,)),
        1.0,
        4,
        None,
        None,
    )
    assert clients.find(hash_of(ADA)) is clients.find(hash_of(BOB)) is ada
    assert clients.find(hash_of("somebody else")) is None


def test_burst_is_a_second_of_the_rate_and_at_least_one(path: Path) -> None:
    """Who says only how many a second may send these at once."""
    write_access(
        path,
        client("ada", ADA, more="max_calls_per_second = 30"),
        client("bob", BOB, more="max_calls_per_second = 0.1"),
    )
    found = read_clients(path).by_name
    assert [found[name].calls and found[name].calls.burst for name in ("ada", "bob")] == [30, 1]  # type: ignore[union-attr]


def test_upper_case_hash_is_the_same_hash(path: Path) -> None:
    """Hexadecimal digits are numbers, not letters."""
    write_access(path, client("ada", ADA).replace(digest(ADA), digest(ADA).upper()))
    assert read_clients(path).find(hash_of(ADA)) is not None


SECRET = "this-is-the-token-itself"  # noqa: S105 - of nobody
REFUSED = {
    "unknown key": (client("ada", ADA, more="wieght = 2"), "client ada: wieght: is no key of a client"),
    "unknown key of the file": ("clients = 1\n" + client("ada", ADA), "clients: is no key of an access file"),
    "unknown role": (client("ada", ADA, roles='"admin"'), r"client ada: roles\[0\]: is no role; there are infer, obs"),
    "no roles": (client("ada", ADA, roles=""), "client ada: roles: is empty"),
    "no hash": (client("ada"), "client ada: token_sha256: is empty"),
    "no name": ('[[client]]\ntoken_sha256 = []\nroles = ["infer"]', "client number 1: name: is missing"),
    "bad name": (client("a b", ADA), "client a b: name: expected up to 64 letters"),
    "bad hash": (client("ada", ADA).replace(digest(ADA), SECRET), r"client ada: token_sha256\[0\]: expected 64 hex"),
    "hash too long": (
        client("ada", ADA).replace(digest(ADA), digest(ADA) + "0"),
        r"client ada: token_sha256\[0\]: expected 64 hex",
    ),
    "hash in a wrong place": (client("ada", ADA, more=f'weight = "{SECRET}"'), "client ada: weight: Input should be"),
    "hash of nothing": (client("ada", ""), "client ada: token_sha256: holds the hash of an empty token"),
    "name twice": (client("ada", ADA) + client("ada", BOB), "client ada: name: is there twice"),
    "hash twice": (
        client("ada", ADA) + client("bob", ADA),
        r"client bob: token_sha256: .* is there twice, also of ada",
    ),
    "hash twice in one": (client("ada", ADA, ADA), r"client ada: token_sha256: .* is there twice, also of ada"),
    "weight 0": (client("ada", ADA, more="weight = 0"), "client ada: weight: Input should be greater"),
    "weight of nothing": (client("ada", ADA, more="weight = nan"), "client ada: weight: Input should be a finite"),
    "level 17": (client("ada", ADA, more="highest_priority = 17"), "client ada: highest_priority: Input should be"),
    "rate 0": (client("ada", ADA, more="max_calls_per_second = 0"), "client ada: max_calls_per_second: Input should"),
    "burst without rate": (client("ada", ADA, more="calls_burst = 5"), "calls_burst: takes max_calls_per_second"),
    "texts without rate": (client("ada", ADA, more="texts_burst = 5"), "texts_burst: takes max_texts_per_second"),
    "burst 0": (
        client("ada", ADA, more="max_calls_per_second = 5\ncalls_burst = 0"),
        "client ada: calls_burst: Input should",
    ),
    "one table": (client("ada", ADA).replace("[[client]]", "[client]"), r"client: expected tables, \[\[client\]\]"),
    "no client": ("", "names no client"),
    "no TOML": (f'[[client]]\nname = "ada"\ntoken {SECRET}', "line 3"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_understood_is_refused_by_name(path: Path, content: str, message: str) -> None:
    """Each mistake is told with the file and the client; nothing is quoted that might be a token."""
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as refused:
        read_clients(path)
    assert all(line.startswith(f"--access-file: {path}: ") for line in str(refused.value).splitlines())
    assert SECRET not in str(refused.value)


def test_all_mistakes_are_told_at_once(path: Path) -> None:
    """Who mends a file need not start the server for each."""
    write_access(path, client("ada", ADA, roles='"admin"'), client("bob", BOB, more="wieght = 2"), client("eve"))
    with pytest.raises(ConfigError) as refused:
        read_clients(path)
    assert [line.split(": ")[2] for line in str(refused.value).splitlines()] == [
        "client ada",
        "client bob",
        "client eve",
    ]


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_file_that_cannot_be_read_is_named(path: Path, content: bytes | None) -> None:
    """A missing file, and one that is no text, are told as such."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"--access-file: {path}: (No such file|is no UTF-8)"):
        read_clients(path)


def test_quotas_that_stay_the_same_keep_what_is_left(path: Path) -> None:
    """A change of the file is no new allowance for those whom it does not concern."""
    more = "max_calls_per_second = 1"
    write_access(path, client("ada", ADA, more=more), client("bob", BOB, more=more))
    before = read_clients(path)
    for each in before.by_name.values():
        each.take_call(100.0)
    write_access(path, client("ada", ADA, more=more), client("bob", BOB, more="max_calls_per_second = 2"))
    after = read_clients(path, before)
    with pytest.raises(QuotaExceededError):
        after.by_name["ada"].take_call(100.0)
    after.by_name["bob"].take_call(100.0)


def test_hash_is_what_other_tools_print(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`--hash-token` reads a token as a file or a pipe gives it, and prints its SHA-256 only."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{ADA}\n"))
    with pytest.raises(SystemExit) as ended:
        load_settings(["--hash-token"])
    assert not ended.value.code
    assert capsys.readouterr().out == f"{hashlib.sha256(ADA.encode()).hexdigest()}\n"


@pytest.mark.parametrize("token", ["", "\n", "short", "two words of a token", "täglich-neue-token-hier", "x" * 15])
def test_what_is_no_token_is_not_hashed(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty input, a line of words, or what can be guessed, is told to whoever makes an access file."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(token))
    with pytest.raises(ConfigError, match="--new-token makes one") as refused:
        load_settings(["--hash-token"])
    assert not token.strip() or token.strip() not in str(refused.value)


def test_new_tokens_are_long_and_never_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """`--new-token` prints one that `--hash-token` takes."""
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) >= 43 and hash_line(token) == digest(token) for token in tokens)
    with pytest.raises(SystemExit):
        load_settings(["--new-token"])
    assert len(capsys.readouterr().out.strip()) >= 43


def test_tables_are_marked_with_keys_of_their_own(path: Path) -> None:
    """What a table is searched by cannot be computed from outside, nor from another table."""
    write_access(path, client("ada", ADA))
    marks = [next(iter(read_clients(path)._by_mark)) for _ in range(2)]
    assert marks[0] != marks[1]
    assert Clients([]).find(hash_of("")) is None


def test_settings_of_access_belong_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Health cannot be closed to everybody."""
    with pytest.raises(ConfigError, match="--health-access: to close health takes --access-file"):
        load_settings(["--models", "x", "--health-access", "closed"])
    settings, _ = load_settings(["--models", "x", "--health-access", "closed", "--access-file", str(path)])
    assert (settings.access_file, settings.health_access) == (path, "closed")
