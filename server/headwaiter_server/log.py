"""Structured logs on stderr: one event a line, as JSON for machines or aligned text for a person."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import Literal

import structlog

LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Logged:
    """Which events are written.

    Attributes:
        verbose_level: Those for finding bugs: none at 0, all from 1 on.
        info: What the server does.
        warning: What may need somebody.
        error: What went wrong.
    """

    verbose_level: int = 0
    info: bool = True
    warning: bool = True
    error: bool = True

    @property
    def lowest_level(self) -> int:
        """The standard library's level of the least important ones."""
        kinds = (bool(self.verbose_level), self.info, self.warning, self.error)
        return next((level for level, kind in zip(_LEVELS, kinds, strict=True) if kind), _NOTHING)


_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
_NOTHING = logging.CRITICAL + 1


class _Choice(logging.Filter):
    """Lets through what is to be written."""

    def __init__(self) -> None:
        super().__init__()
        self.logged = Logged()

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        logged = self.logged
        if record.levelno >= logging.ERROR:
            return logged.error
        if record.levelno >= logging.WARNING:
            return logged.warning
        return logged.info if record.levelno >= logging.INFO else bool(logged.verbose_level)


_choice = _Choice()


def logged() -> Logged:
    """Which events are written now."""
    return _choice.logged


def set_logged(logged: Logged) -> None:
    """Write these events from now on."""
    _choice.logged = logged
    logging.getLogger().setLevel(logged.lowest_level)


def configure_logging(log_format: LogFormat, level: LogLevel) -> None:
    """Send every event, structlog's and the standard library's, to stderr.

    Args:
        log_format: "auto" is text on a terminal and JSON elsewhere.
        level: Events below it are dropped.
    """
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        # The default formatter prints local variables, callers' texts among them, wherever rich is installed.
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if as_text
        else structlog.processors.JSONRenderer()
    )
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    # Text shows a traceback as the console renderer likes it; JSON carries it as one field.
    if not as_text:
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(_choice)
    logging.getLogger().handlers = [handler]
    set_logged(
        Logged(
            verbose_level=int(level == "debug"),
            info=level in ("debug", "info"),
            warning=level != "error",
        )
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for one module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
