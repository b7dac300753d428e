"""Writes the dashboards' JSON, which is committed so that Grafana needs nothing of this.

python -m deploy.grafana.build [--check]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.grafana import batching, capacity, generation, overview
from deploy.grafana.render import to_json
from deploy.grafana.spec import Dashboard

FOLDER = Path(__file__).parent / "dashboards"
ALL: tuple[Dashboard, ...] = (overview.DASHBOARD, batching.DASHBOARD, generation.DASHBOARD, capacity.DASHBOARD)


def stale_dashboards(folder: Path = FOLDER) -> list[str]:
    """Names of files in the folder that say something else than the code, are missing, or belong to no dashboard."""
    built = {f"{each.name}.json": to_json(each) for each in ALL}
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    return sorted(name for name in built.keys() | found.keys() if built.get(name) != found.get(name))


def write_dashboards(folder: Path = FOLDER) -> None:
    """Write every dashboard into a folder."""
    for each in ALL:
        (folder / f"{each.name}.json").write_text(to_json(each), encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the dashboards' JSON.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a file is stale")
    if not parser.parse_args().check:
        write_dashboards()
    elif stale := stale_dashboards():
        sys.exit(f"stale: {', '.join(stale)}; run python -m deploy.grafana.build")


if __name__ == "__main__":
    main()
