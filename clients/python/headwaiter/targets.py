"""Whether a gRPC target stays on this machine: a token may go there in clear text, and never by a proxy."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_local(target: str) -> bool:
    """Whether every address of a gRPC target is a Unix socket or a loopback address.

    Args:
        target: As gRPC takes it: `HOST:PORT`, `dns:///HOST:PORT`, `ipv4:ADDRESS:PORT,...`, `unix:PATH`. Names
            other than `localhost` are never looked up, hence never local.
    """
    scheme, separator, rest = target.partition(":")
    if separator and scheme in {"unix", "unix-abstract"}:
        return True
    if separator and scheme in {"ipv4", "ipv6"}:
        return all(_is_loopback(address) for address in rest.split(","))
    if separator and scheme == "dns":
        # `dns://RESOLVER/HOST:PORT` or `dns:HOST:PORT`: a foreign resolver may answer anything for
        # `localhost`.
        parts = urlsplit(target)
        return not parts.netloc and _is_loopback(parts.path.removeprefix("/"))
    return _is_loopback(target)


def _is_loopback(address: str) -> bool:
    if address.startswith("["):
        host = address[1:].partition("]")[0]
    else:
        # One colon parts host and port; several are an IPv6 address that stands alone.
        host = address.partition(":")[0] if address.count(":") == 1 else address
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
