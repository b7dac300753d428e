"""What long runs keep, and the page that is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from reliability import figures, page
from reliability.figures import Figure, read_reports, report

REACHED = Figure("failed", 0, "calls", "0", reached=True)
MISSED = Figure("goodput", 81.25, "% of capacity", ">= 95 %", reached=False)
TOLD = Figure("capacity", 12345.6, "texts/s")


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where reports are kept meanwhile."""
    monkeypatch.setattr(figures, "FOLDER", tmp_path / "kept")
    return tmp_path


def test_missed_aim_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """What is held to nothing misses nothing; and a person sees all of it."""
    assert report("overload", "2 s of each load", [REACHED, TOLD]) == 0
    assert report("overload", "2 s of each load", [REACHED, MISSED]) == 1
    assert [each.missed for each in read_reports()] == [[MISSED]]
    shown = capsys.readouterr().out
    assert "12,346 texts/s" in shown
    assert "81.2 % of capacity" in shown


def test_page_holds_what_the_last_run_of_each_line_gave(kept: Path) -> None:
    """A row for each line, and its table, between markers that docs/reliability.md has."""
    copy = kept / "reliability.md"
    copy.write_text(page.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    report("poison", "10 requests", [REACHED])
    report("overload", "2 s of each load", [REACHED, MISSED, TOLD])
    page.write(copy)
    text = copy.read_text(encoding="utf-8")
    assert "| [overload](#overload) | 2 | 1 |" in text
    assert "| [poison](#poison) | 1 | 1 |" in text
    assert "| goodput | 81.2 % of capacity | >= 95 % | **no** |" in text
    assert text.count("2 s of each load. On ") == 1


def test_line_without_a_place_on_the_page_is_named(kept: Path) -> None:
    """Nothing that was run is left out in silence."""
    copy = kept / "reliability.md"
    copy.write_text("<!-- summary:begin -->\n<!-- summary:end -->\n", encoding="utf-8")
    report("poison", "10 requests", [REACHED])
    with pytest.raises(ValueError, match="poison:begin"):
        page.write(copy)
