"""The ways in which calls find one of several servers: through Envoy, round robin, pick-first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from headwaiter import TLS, ChannelOptions
from headwaiter.connection import prepare

from .proxy import NAME, running_proxy
from .replicas import Replica

PUBLISHED = Path(__file__).resolve().parents[2] / "clients"
ENVOY, ROUND_ROBIN, PICK_FIRST = "envoy", "round-robin", "pick-first"
ALL = (ENVOY, ROUND_ROBIN, PICK_FIRST)
_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Way:
    """How calls find a server.

    Attributes:
        name: One of `ALL`.
        target: Of the channels.
        config: The published service config of its clients: a file of `clients/`.
        tls: Of the channels; None for clear text.
    """

    name: str
    target: str
    config: str
    tls: TLS | None = None

    @property
    def spreads(self) -> bool:
        """Whether its calls go to every server, and not to one until that one sends them away."""
        return self.name != PICK_FIRST

    def channel(self, *, retries: bool) -> grpc.aio.Channel:
        """A channel with the options of the Python client, and the published config or the same without retries."""
        config = json.loads((PUBLISHED / self.config).read_text())
        if not retries:
            del config["methodConfig"]
        connection = prepare(
            self.target,
            timeout_seconds=_TIMEOUT_SECONDS,
            tls=self.tls,
            token=None,
            allow_plaintext_token=False,
            retries=retries,
            channel_options=ChannelOptions(),
        )
        options = [*(each for each in connection.options if each[0] != "grpc.service_config")]
        options.append(("grpc.service_config", json.dumps(config)))
        if connection.credentials is None:
            return grpc.aio.insecure_channel(self.target, options)
        return grpc.aio.secure_channel(self.target, connection.credentials, options)


@contextmanager
def open_ways(
    names: Sequence[str], replicas: Sequence[Replica], folder: Path, through: Sequence[str] = ()
) -> Iterator[list[Way]]:
    """The ways of these names to these servers; Envoy, which a command may become, runs as long."""
    addresses = [replica.address for replica in replicas]
    every = f"ipv4:{','.join(addresses)}"
    with ExitStack() as stack:
        ways = []
        if ENVOY in names:
            proxy = stack.enter_context(running_proxy(folder, addresses, through))
            tls = TLS(ca_file=proxy.ca_file, server_name=NAME)
            ways.append(Way(ENVOY, proxy.target, "service-config.json", tls))
        if ROUND_ROBIN in names:
            ways.append(Way(ROUND_ROBIN, every, "service-config.json"))
        if PICK_FIRST in names:
            ways.append(Way(PICK_FIRST, every, "service-config-pick-first.json"))
        yield ways
