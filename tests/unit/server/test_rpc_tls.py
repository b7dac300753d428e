"""TLS of gRPC's listeners, in this process: what was changed holds for new connections at each of them."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from authority import Authority, Pair
from headwaiter import TLS, AsyncClient, HealthStatus, ServerUnreachableError
from headwaiter_server.certificates import Identity, read_authorities, read_pair
from headwaiter_server.rereading import Reread
from headwaiter_server.rpc.server import WHOLE_SERVER, GrpcServer
from reliability.tls import shown_certificate


def _reread(pair: Pair, client_ca: Path) -> Reread[Identity]:
    return Reread(
        "the certificate",
        [pair.certificate, pair.key, client_ca],
        lambda: Identity(read_pair(pair.certificate, pair.key, ("--c", "--k")), read_authorities(client_ca, "--ca")),
    )


async def test_what_is_new_holds_at_every_listener(tmp_path: Path) -> None:
    """Another certificate of the server's, and another authority of the clients': who was refused is let in."""
    ours, theirs, others = (Authority(tmp_path / name) for name in ("ours", "theirs", "others"))
    first, second = ours.issue("first"), ours.issue("second")
    served, client_ca = Pair(tmp_path / "s.pem", tmp_path / "s.key"), tmp_path / "clients.pem"
    first.copy_to(served)
    client_ca.write_bytes(theirs.certificate.read_bytes())
    identity = _reread(served, client_ca)
    server = GrpcServer([], [], max_message_bytes=1 << 20, max_streams=10, identity=identity)
    targets = [server.listen("127.0.0.1:0") for _ in range(2)]
    await server.start()
    await server.set_serving(WHOLE_SERVER, serving=True)
    known, stranger = (
        TLS(ours.certificate, pair.certificate, pair.key) for pair in (theirs.issue("client"), others.issue("client"))
    )
    rounds = [(first, theirs, known, stranger), (second, others, stranger, known)]
    try:
        for shown, trusted, good, bad in rounds:
            shown.copy_to(served)
            client_ca.write_bytes(trusted.certificate.read_bytes())
            identity._due = 0.0
            for target in targets:
                assert await asyncio.to_thread(shown_certificate, target, good) == _der(shown)
                assert await _healthy(target, good)
                assert not await _healthy(target, bad)
    finally:
        await server.stop(0)


def _der(pair: Pair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())


async def _healthy(target: str, tls: TLS) -> bool:
    async with AsyncClient(target, tls=tls, retries=False) as client:
        try:
            return await client.health(timeout_seconds=20) is HealthStatus.SERVING
        except ServerUnreachableError:
            return False
