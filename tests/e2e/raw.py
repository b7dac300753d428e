"""Calls of raw bytes, below any client's care."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
import pytest


def refused(target: str, method: str, data: bytes, *metadata: tuple[str, str]) -> grpc.RpcError:
    """The error that answers a call of raw bytes."""
    with grpc.insecure_channel(target) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        with pytest.raises(grpc.RpcError) as caught:
            call(data, timeout=60, metadata=metadata)
    return caught.value


def trailers(error: grpc.RpcError) -> dict[str, Any]:
    """Trailing metadata of a call that was refused."""
    pairs: Iterable[Any] = error.trailing_metadata()
    return dict(pairs)
