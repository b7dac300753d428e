"""Logs tell what went wrong, never what callers sent."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator

import pytest
import structlog
from headwaiter_server.log import LogFormat, configure_logging


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_tracebacks_show_no_local_variables(log_format: LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    """An exception is logged with its traceback but without the values that were at hand, also where rich is there."""
    assert importlib.util.find_spec("rich"), "without rich this test proves nothing"
    configure_logging(log_format, "info")
    try:
        fail("sent by the caller".upper())
    except RuntimeError:
        structlog.stdlib.get_logger("test").exception("failed")
    shown = capsys.readouterr().err
    assert "RuntimeError: broken" in shown
    assert "Traceback" in shown
    assert "SENT BY THE CALLER" not in shown


def fail(text: str) -> None:
    raise RuntimeError("broken" if text else "")
