"""The benchmark of swaps: what it holds memory against, which aims are missed by what, and where its table goes."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import pytest

from benchmarks import swaps
from benchmarks.servers import MeasuredServer
from benchmarks.swaps import Figures, markdown, measure
from benchmarks.swaps_load import Golden, Seen

MIB = 1 << 20
GOLDEN = Golden(["soup"], {})
WELL = Figures(130.0, 6, 500, 0, 0, 3.5, [0.1, 0.1], [0.1, 0.15], 300 * MIB, 310 * MIB, 312 * MIB)
SINCE_BEFORE = "memory after 6 swaps to before the first: {} to 300 MiB"
SINCE_FIRST = "memory after 6 swaps to after the first 3: {} to 310 MiB"


class Server:
    """A server that grows with every swap."""

    target = "nowhere"

    def __init__(self) -> None:
        self.swaps: list[int] = []

    def resident_bytes(self) -> int:
        return 100 + len(self.swaps)


class Caller:
    """Calls that take 10 ms each, and swaps that take none."""

    server: Server

    def __init__(self, *_: object) -> None:
        """Takes what the real one does."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    async def capacity(self, callers: int, seconds: float) -> float:
        return 100.0

    async def swap(self, version: int) -> float:
        self.server.swaps.append(version)
        return 3.5

    async def call_until(self, over: asyncio.Event, rate: float, seed: int) -> Seen:
        await over.wait()
        return Seen([0.01], Counter({"OK": 1}))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """What `measure` calls in place of a real server, without its pauses."""
    Caller.server = Server()
    monkeypatch.setattr(swaps, "Caller", Caller)
    monkeypatch.setattr(swaps, "_PAUSE_SECONDS", 0.0)
    return Caller.server


async def test_memory_is_that_before_the_first_swap_after_the_first_stretch_and_after_the_last(server: Server) -> None:
    """Three stretches of two swaps each, by turns to either version."""
    figures = await measure(cast("MeasuredServer", server), "minilm", GOLDEN, stretches=3, swaps=2)
    assert server.swaps == [1, 2] * 3
    assert (figures.before_bytes, figures.first_bytes, figures.last_bytes) == (100, 102, 106)
    assert (figures.swaps, figures.calls, figures.calls_per_second) == (6, 6, 70.0)


@pytest.mark.parametrize(
    ("figures", "missed"),
    [
        (WELL, []),
        (replace(WELL, failed=1), ["calls that failed, of 500"]),
        (replace(WELL, wrong=1), ["answers of another version than they name"]),
        (
            replace(WELL, p99_swapping=[0.16, 0.16]),
            ["p99 with swaps to p99 without, median of 2: 160 to 100 ms"],
        ),
        (replace(WELL, last_bytes=316 * MIB), [SINCE_BEFORE.format(316)]),
        (replace(WELL, last_bytes=326 * MIB), [SINCE_BEFORE.format(326), SINCE_FIRST.format(326)]),
    ],
)
def test_what_was_not_reached_is_told(figures: Figures, missed: list[str]) -> None:
    """Memory is held against both, and either may be missed alone."""
    assert [name for name, *_, reached in figures.rows if not reached] == missed
    assert markdown(figures).count("| **missed** |") == len(missed)


@pytest.mark.parametrize(
    ("options", "measured", "written"),
    [([], {"stretches": 10, "swaps": 5}, True), (["--quick"], {"stretches": 1, "swaps": 1}, False)],
)
def test_page_has_what_was_measured_in_full(
    options: list[str],
    measured: dict[str, int],
    written: bool,  # noqa: FBT001 - a parameter of the test
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The table goes between the markers of docs/benchmarks.md; a quick run leaves the page alone."""
    asked: list[dict[str, int]] = []

    async def measured_here(*_: object, **how: int) -> Figures:
        asked.append(how)
        return replace(WELL, failed=1)

    @contextmanager
    def measured_server(*_: object) -> Iterator[Server]:
        yield Server()

    def nothing(*_: Any) -> None:  # noqa: ANN401 - whatever it is given
        """No bundle is read and no signal waited for."""

    page = tmp_path / "benchmarks.md"
    before = swaps.PAGE.read_text(encoding="utf-8")
    page.write_text(before, encoding="utf-8")
    for name, fake in {
        "PAGE": page,
        "measure": measured_here,
        "measured_server": measured_server,
        "write_turned_bundle": nothing,
        "Golden": type("Golden", (), {"of": nothing}),
    }.items():
        monkeypatch.setattr(swaps, name, fake)
    monkeypatch.setattr("benchmarks.swaps.shutil.copytree", nothing)
    monkeypatch.setattr("benchmarks.swaps.signal.signal", nothing)
    monkeypatch.setattr(sys, "argv", ["swaps.py", "--packed", str(tmp_path), *options])
    with pytest.raises(SystemExit) as ended:
        swaps.main()
    assert ended.value.code
    assert asked == [measured]
    text = page.read_text(encoding="utf-8")
    assert (f"<!-- swaps:begin -->\n{markdown(replace(WELL, failed=1))}\n<!-- swaps:end -->" in text) is written
    assert (text == before) is not written
