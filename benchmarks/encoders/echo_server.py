"""What grpc.aio costs by itself: every call is answered with its own bytes."""

from __future__ import annotations

import asyncio

import grpc
import uvloop
from headwaiter_server.allocator import hold_no_freed_memory

from benchmarks.encoders.load import EMBED
from benchmarks.open_inference_load import INFER


async def _echo(request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return request


async def serve() -> None:
    """Serve until ended."""
    # As our server does: otherwise their memory could not be compared.
    hold_no_freed_memory()
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    for service, method in (each.strip("/").split("/") for each in (EMBED, INFER)):
        handler = grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(_echo)})
        server.add_generic_rpc_handlers([handler])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready grpc=127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve())
