"""The command `headwaiter-server`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence

try:
    from headwaiter_server.app import Server, serve
    from headwaiter_server.config import ServerSettings, as_toml, load_settings
    from headwaiter_server.errors import ConfigError, HeadwaiterError
    from headwaiter_server.lifecycle import load_thread
    from headwaiter_server.log import configure_logging
except ModuleNotFoundError as error:
    # The command comes with every install of the package, what it needs only with the extra.
    raise SystemExit(f"headwaiter-server: no module {error.name}; install headwaiter with its extra: server") from error

try:
    from uvloop import new_event_loop
except ImportError:  # no wheel for this platform: the standard loop is slower and does as well
    from asyncio import new_event_loop

_EXIT_FAILED = 1
_EXIT_USAGE = 2
_EXIT_IMPATIENT = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server until SIGTERM or SIGINT; a second signal ends it at once.

    Exit codes: 0 after a signal, 1 when it cannot start (a model, a port) or go on, 2 for wrong settings.
    """
    try:
        settings, print_config = load_settings(sys.argv[1:] if arguments is None else arguments)
    except ConfigError as error:
        _tell(str(error))
        sys.exit(_EXIT_USAGE)
    if print_config:
        sys.stdout.write(as_toml(settings) + "\n")
        return
    configure_logging(settings.log_format, settings.log_level)
    _take_descriptors()
    code = 0
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_run(settings))
    except HeadwaiterError as error:
        code = _EXIT_FAILED
        _tell(str(error))
    if load_thread.under_way():
        # Everything else has ended in order, and nobody waits for the model.
        logging.shutdown()
        os._exit(code)
    sys.exit(code)


def _take_descriptors() -> None:
    """Take as many descriptors as the process may have: each connection has one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems allow less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _run(settings: ServerSettings) -> None:
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(_EXIT_IMPATIENT)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await serve(settings, stop, _announce)


def _announce(server: Server) -> None:
    models = ",".join(f"{model.name}:{model.version}" for model in server.models)
    grpc = ",".join(server.grpc_addresses)
    # Scripts wait for this line: it is the only one on stdout.
    sys.stdout.write(f"ready grpc={grpc} metrics={server.metrics_address} models={models}\n")
    sys.stdout.flush()


def _tell(message: str) -> None:
    for line in message.splitlines():
        sys.stderr.write(f"headwaiter-server: {line}\n")


if __name__ == "__main__":
    main()
