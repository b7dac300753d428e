"""A soak in a short form: every part of it runs, and nothing fails or is left behind."""

from __future__ import annotations

from pathlib import Path

from e2e.process import running_server
from unit.server.test_load_encoder import Made

from .cancels_calls import EMBEDDER, GENERATOR
from .soak import figures, soak
from .soak_page import write_page
from .soak_samples import Sample, SampleFile, bytes_an_hour, drift

# So that there are samples in each quarter, also where one takes a second.
SECONDS = 8.0


async def test_soak_fails_no_call_and_leaves_nothing_behind(tmp_path: Path, models_dir: Path) -> None:
    """Calls of all kinds for a few seconds: none fails, none is held, no task is left; samples and page are written."""
    Made(tmp_path / "models" / EMBEDDER).write()
    (tmp_path / "models" / GENERATOR).symlink_to((models_dir / "pronounce").resolve())
    file = SampleFile(tmp_path / "soak.csv")
    flags = ("--models", str(tmp_path / "models"), "--calibration", "off", "--lame-duck-seconds", "0")
    with running_server(*flags) as server:
        soaked = await soak(
            server, SECONDS, words=["w1", "w2", "w3", "w4"], most_words=40, measuring_seconds=1.0, file=file, seed=1
        )
        assert server.terminate() == 0
    file.close()
    counts = {figure.name: figure for figure in figures(soaked)}
    assert soaked.seen.failed == {}
    assert soaked.held == 0
    assert counts["more tasks at rest, after to before"].reached
    assert len((tmp_path / "soak.csv").read_text().splitlines()) == 1 + len(soaked.samples)
    write_page(tmp_path / "soak.html", soaked.samples)
    assert "Memory of the server" in (tmp_path / "soak.html").read_text()


def sample(second: int, resident_bytes: float, p99_seconds: float = 0.0) -> Sample:
    return Sample(float(second), round(resident_bytes), 0, 0, 0, 0, 0, 0, 0, p99_seconds, 1.0)


def test_line_is_fitted_to_what_stays() -> None:
    """Neither the first quarter nor peaks bend it: what is left is what grows."""
    growing = [
        sample(second, 5e8 + 1000 * second + (1e8 if second % 10 == 0 else 0) - (3e8 if second < 100 else 0))
        for second in range(400)
    ]
    assert abs(bytes_an_hour(growing, "resident_bytes") - 3.6e6) < 0.05 * 3.6e6


def test_drift_compares_quarters() -> None:
    """The last quarter's median to the second's; samples within an interval have none."""
    samples = [sample(second, 0, (second % 2) * (1.0 if second < 300 else 1.5)) for second in range(400)]
    assert drift(samples, "p99_seconds") == 1.5
