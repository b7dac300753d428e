"""Runs the checks of one module against a server."""

from __future__ import annotations

import importlib
import sys

from .checks import Server, run

_, module, grpc, metrics = sys.argv
run(importlib.import_module(f"{__package__}.{module}"), Server(grpc, metrics))
