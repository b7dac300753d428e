"""Sockets in the file system: one that a dead server has left is no hindrance, one that answers is somebody else's."""

from __future__ import annotations

import errno
import os
import socket

from headwaiter_server.errors import ConfigError

_SCHEME = "unix:"
# Nothing is there, or nobody listens: gRPC takes the place.
_FREE = {errno.ENOENT, errno.ECONNREFUSED}
# One who listens has no time now, but does listen.
_LIVING = {0, errno.EAGAIN, errno.EINPROGRESS}


def check_unix_socket(address: str) -> None:
    """Refuse a path where somebody listens: gRPC would take it away from whoever does, without a word to either.

    Args:
        address: HOST:PORT, which is passed over, or unix:PATH.

    Raises:
        ConfigError: A server answers there, or nobody may find out.
    """
    if not address.startswith(_SCHEME):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            code = probe.connect_ex(address.removeprefix(_SCHEME))
        except OSError as error:  # longer than a socket's path may be
            raise ConfigError(f"cannot listen on {address}: {error}; --listen chooses another") from error
    if code not in _FREE:
        reason = "a server answers there" if code in _LIVING else os.strerror(code)
        raise ConfigError(f"cannot listen on {address}: {reason}; --listen chooses another")
