"""Writes docs/licences.md: what everything in the server's image may be used under.

python -m deploy.licences
"""
# A script, which prints; not a package.
# ruff: noqa: INP001, T201

from __future__ import annotations

import sys
from collections.abc import Sequence

from deploy.locked import LEFT_OUT, ROOT
from deploy.serving import ALLOWED, Served, allowed, served

PAGE = ROOT / "docs" / "licences.md"

_TEXT = """\
# Licences

Headwaiter is under Apache-2.0. Below is everything that its image brings along beside Python and Debian, as its lock
file (`server/requirements.lock`) has it; whoever installs the wheel with the extra `server` has these and what they ask
for besides ({left_out} and its dependencies, which the server never uses).

The third column is what each package says of itself. All are among these, which ask for nothing but to be named; a
test refuses any other: {allowed}.

{table}

Wheels hold parts of others, whose terms are in the files that they bring into the image (`*.dist-info/`): onnxruntime's
`ThirdPartyNotices.txt` lists what is built into it, and numpy's for Linux bring OpenBLAS and LAPACK (BSD-3-Clause) and
two libraries of GCC, each in a file of its own: libgfortran (GPL-3.0, with the GCC Runtime Library Exception, which
lets every program use it) and libquadmath (LGPL-2.1).

`python -m deploy.licences` writes this page, and `python -m deploy.sbom` the same as a bill of materials (CycloneDX),
with the hashes of all wheels.
"""


def main() -> int:
    """Write it; returns the exit code: 1 if something is under terms that nobody has allowed."""
    packages = served()
    PAGE.write_text(page(packages), encoding="utf-8")
    refused = [
        f"{each.locked.name}: {each.licence or 'says nothing'}" for each in packages if not allowed(each.licence)
    ]
    print(*refused, sep="\n", end="\n" if refused else "", file=sys.stderr)
    return 1 if refused else 0


def page(packages: Sequence[Served]) -> str:
    """The page's whole text."""
    rows = [
        f"| [{each.locked.name}]({each.source}) | {each.locked.version} | {each.licence or '?'} | {each.summary} |"
        for each in packages
    ]
    table = "\n".join(["| package | version | licence | what it is |", "| --- | --- | --- | --- |", *rows])
    return _TEXT.format(left_out=", ".join(sorted(LEFT_OUT)), allowed=", ".join(sorted(ALLOWED)), table=table)


if __name__ == "__main__":
    sys.exit(main())
