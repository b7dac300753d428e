"""gRPC's health checking protocol, version 1, as far as a client needs it: the bytes of two tiny messages.

The contract, https://github.com/grpc/grpc/blob/master/doc/health-checking.md, has been frozen for years:

    message HealthCheckRequest  { string service = 1; }
    message HealthCheckResponse { ServingStatus status = 1; }

They are written by hand because a process may hold only one copy of `grpc/health/v1/health.proto`: stubs of
our own would clash with grpcio-health-checking where a user's process has that, and depending on it would
pass its narrow protobuf range on to every user of this client.
"""

from __future__ import annotations

from headwaiter.results import HealthStatus

# A key byte is (field number << 3 | wire type): field 1 as a length-delimited string, field 1 as a varint.
_SERVICE_KEY = 0x0A
_STATUS_KEY = 0x08
# Seven bits of a varint ride in each byte, lowest first; the eighth says that more follow.
_VARINT_MORE = 0x80
_VARINT_BITS = 7

_STATUSES = (
    HealthStatus.UNKNOWN,
    HealthStatus.SERVING,
    HealthStatus.NOT_SERVING,
    HealthStatus.SERVICE_UNKNOWN,
)


def encode_request(service: str) -> bytes:
    """A `HealthCheckRequest`: the model's name, or "" for the server as a whole (then no byte at all)."""
    if not service:
        return b""
    name = service.encode()
    length = bytearray()
    remaining = len(name)
    while remaining >= _VARINT_MORE:
        length.append(remaining % _VARINT_MORE | _VARINT_MORE)
        remaining >>= _VARINT_BITS
    length.append(remaining)
    return bytes((_SERVICE_KEY, *length)) + name


def decode_response(raw: bytes) -> HealthStatus:
    """The status in a `HealthCheckResponse`; an empty message means the enum's zero, unknown.

    Anything else than one small enum in field 1 is a status this client does not know, hence unknown too: a
    health probe must not raise because a server is newer.
    """
    match tuple(raw):
        case (key, value) if key == _STATUS_KEY and value < len(_STATUSES):
            return _STATUSES[value]
        case _:
            return HealthStatus.UNKNOWN
