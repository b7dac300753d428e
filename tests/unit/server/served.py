"""A whole server of one small model, in the test's own process and behind a real socket."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from headwaiter_server.app import Server
from headwaiter_server.config import ServerSettings

from .test_load_encoder import Made


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    versions: Sequence[int] = (1,),
    **settings: Any,  # noqa: ANN401 - of the server
) -> AsyncIterator[grpc.aio.Channel]:
    """A server that has calibrated and warmed up its model, `small`, in earnest."""
    made = Made(folder / "models" / "small")
    made.write()
    for version in set(versions) - {1}:
        shutil.copytree(made.folder, made.folder.with_name(str(version)))
    server = Server(
        ServerSettings(
            models=folder / "models",
            listen=["127.0.0.1:0"],
            metrics_listen="127.0.0.1:0",
            workers=1,
            calibration_cache=folder / "cache",
            trial_loads="off",
            lame_duck_seconds=0,
            **settings,
        ),
        asyncio.Event(),
    )
    try:
        await server.start()
        async with grpc.aio.insecure_channel(server.grpc_addresses[0]) as channel:
            yield channel
        await server.drain()
    finally:
        await server.close()


async def ask(
    channel: grpc.aio.Channel, method: str, request: Message, service: str = "inference.GRPCInferenceService"
) -> bytes:
    """The answer of a method."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{service}/{method}")
    return await call(request.SerializeToString())
