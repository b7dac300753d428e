"""The real server, which writes down whenever its event loop was late.

    python tests/reliability/abuse_server.py --lags FILE [flags of headwaiter-server]

Each line of the file is when a turn came, on the machine's monotonic clock, and by how much it was late, in seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import IO
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # run as a file, from anywhere

from headwaiter_server.__main__ import main as serve  # noqa: E402 - after the path is set
from headwaiter_server.metrics.loop_lag import LoopLag  # noqa: E402

_INTERVAL_SECONDS = 0.002
_WORTH_SECONDS = 0.001


class LagWriter(LoopLag):
    """Asks for a turn every 2 ms, and writes down those that come late."""

    def __init__(self, file: IO[str]) -> None:
        super().__init__()
        self._file = file

    def start(self) -> None:
        """Ask for the first turn, or the next. Needs a running event loop."""
        self._due = time.monotonic() + _INTERVAL_SECONDS
        self._handle = asyncio.get_running_loop().call_later(_INTERVAL_SECONDS, self._turn)

    def _turn(self) -> None:
        now = time.monotonic()
        self._last_seconds = max(0.0, now - self._due)
        if self._last_seconds > _WORTH_SECONDS:
            self._file.write(f"{now:.6f} {self._last_seconds:.6f}\n")
            self._file.flush()
        self.start()


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--lags", type=Path, required=True, help="file that is written")
    options, flags = parser.parse_known_args()
    with options.lags.open("w", encoding="utf-8") as file:
        mock.patch("headwaiter_server.app.LoopLag", return_value=LagWriter(file)).start()
        serve(flags)


if __name__ == "__main__":
    main()
