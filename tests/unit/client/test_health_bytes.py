from __future__ import annotations

import pytest
from grpc_health.v1 import health_pb2
from headwaiter import HealthStatus, health


@pytest.mark.parametrize("name", ["", "m", "é" * 7, "x" * 127, "x" * 128, "y" * 20_000])
def test_request_bytes_are_those_of_the_official_stubs(name: str) -> None:
    """Hand-written requests equal generated ones, whatever the length of the name."""
    assert health.encode_request(name) == health_pb2.HealthCheckRequest(service=name).SerializeToString()


@pytest.mark.parametrize("name", health_pb2.HealthCheckResponse.ServingStatus.keys())
def test_response_bytes_of_the_official_stubs_are_understood(name: str) -> None:
    """Every status of the protocol is read."""
    raw = health_pb2.HealthCheckResponse(status=name).SerializeToString()
    assert health.decode_response(raw) is HealthStatus[name]


@pytest.mark.parametrize("raw", [b"\x08\x09", b"\x08", b"\x08\x81\x01", b"\x10\x01", b"junk"])
def test_other_bytes_are_an_unknown_status(raw: bytes) -> None:
    """A health probe survives what it does not understand."""
    assert health.decode_response(raw) is HealthStatus.UNKNOWN
