from __future__ import annotations

import pytest
from headwaiter.targets import is_local


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:8001",
        "127.8.9.1:8001",
        "127.0.0.1",
        "localhost:8001",
        "[::1]:8001",
        "::1",
        "dns:///localhost:8001",
        "dns:127.0.0.1:8001",
        "ipv4:127.0.0.1:1,127.0.0.1:2",
        "ipv6:[::1]:8001",
        "unix:/run/headwaiter.sock",
        "unix:///run/headwaiter.sock",
        "unix-abstract:headwaiter",
    ],
)
def test_loopback_and_sockets_are_local(target: str) -> None:
    """Targets on this machine are seen as such."""
    assert is_local(target)


@pytest.mark.parametrize(
    "target",
    [
        "10.0.0.1:8001",
        "example.org:8001",
        "localhost.example.org:8001",
        "127.0.0.1.example.org:8001",
        "dns:///example.org:8001",
        "dns://8.8.8.8/localhost:8001",
        "ipv4:127.0.0.1:1,10.0.0.1:2",
        "ipv6:[2001:db8::1]:8001",
        "[2001:db8::1]:8001",
        "0.0.0.0:8001",
        "xds:///127.0.0.1",
        "",
    ],
)
def test_everything_else_is_not(target: str) -> None:
    """A target that is, or might be, another machine gets no token in clear text."""
    assert not is_local(target)
