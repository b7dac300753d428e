"""Write the pages of docs/ that are generated from the code, or check that they are fresh.

    python docs/build_reference.py            write them
    python docs/build_reference.py --check    exit with 1 and name those that are stale

A page is one function in `PAGES`: it returns the page's whole text.
"""

# ruff: noqa: INP001 - docs/ is no package

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from headwaiter_server.config import describe_settings

DOCS = Path(__file__).parent

_CONFIGURATION_INTRO = """\
# Configuration of the server

Every setting of `headwaiter-server` can be given in three places. Where it stands in several, the first of these wins:

1. a flag on the command line,
2. an environment variable,
3. the TOML file that `--config` (or `HEADWAITER_CONFIG`) names,
4. the default.

A setting nobody knows is refused wherever it stands, by name, and the server does not start. Variables that begin with
`HEADWAITER_CLIENT_`, `HEADWAITER_EXPORT_` or `HEADWAITER_LOAD_` belong to the other commands and are left alone.

`headwaiter-server --print-config` prints the settings in force as such a file and ends.
"""

_CONFIGURATION_EXAMPLE = """\
## A settings file

Names are those of the flags, with underscores. Settings that take several values take a list, or a table:

```toml
models = "/srv/models"
listen = ["0.0.0.0:8001", "unix:/run/headwaiter.sock"]
metrics_listen = "0.0.0.0:8002"
variant = {pronounce = "fp32"}
max_batch_rows = 64
drain_seconds = 30.0
log_format = "json"
```

The same, partly from elsewhere:

```console
$ export HEADWAITER_LISTEN=0.0.0.0:8001,unix:/run/headwaiter.sock
$ headwaiter-server --config headwaiter.toml --max-batch-rows 128
```
"""


def configuration() -> str:
    """The page on the server's settings."""
    headings = ("Flag", "Environment variable", "Default", "Meaning")
    rows = [
        (_code(flag), _code(variable), default if default == "required" else _code(default), meaning)
        for flag, variable, default, meaning in describe_settings()
    ]
    sections = [_CONFIGURATION_INTRO, f"## Settings\n\n{_table(headings, rows)}", _CONFIGURATION_EXAMPLE]
    return "\n".join(sections)


PAGES: Mapping[str, Callable[[], str]] = {
    "configuration.md": configuration,
}


def stale_pages(folder: Path = DOCS) -> list[str]:
    """Names of the pages in a folder that are missing or say something else than the code."""
    return [name for name, build in PAGES.items() if _read(folder / name) != build()]


def write_pages(folder: Path = DOCS) -> None:
    """Write every page into a folder."""
    for name, build in PAGES.items():
        (folder / name).write_text(build(), encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the generated pages of docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a page is stale")
    if not parser.parse_args().check:
        write_pages()
    elif stale := stale_pages():
        sys.exit(f"stale: {', '.join(stale)}; run python docs/build_reference.py")


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    main()
