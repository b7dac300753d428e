"""The process in which a graph is made ready: `python -m headwaiter_server.lifecycle.preparing_child`.

Its arguments: the id of the process that has started it, the descriptor of a file that holds the graph, and the folder
in which `prepare` leaves its files.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# It has one thread to compute with, and needs no others.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")

from headwaiter_server.lifecycle.confinement import die_with_parent
from headwaiter_server.model.onnx import prepare

# Whoever serves meanwhile comes first.
_NICE = 19


def main() -> None:
    """Make one graph ready."""
    os.nice(_NICE)
    parent, graph, folder = sys.argv[1:]
    die_with_parent(int(parent))
    prepare(f"/proc/self/fd/{int(graph)}", Path(folder))


if __name__ == "__main__":
    main()
