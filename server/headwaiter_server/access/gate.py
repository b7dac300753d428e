"""The gate: whoever calls shows a token, is held to its roles, and pays with its quota. Before anything is parsed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from headwaiter_server.access.clients import Client, Clients
from headwaiter_server.access.roles import HEALTH_METHODS, METHOD_ROLES, Role
from headwaiter_server.access.tokens import hash_of
from headwaiter_server.errors import NotAllowedError, UnauthenticatedError

TOKEN_KEY: Final = "authorization"  # noqa: S105 - where it stands
_SCHEME = "bearer"

# Pairs of metadata, as gRPC has them.
Metadata = Iterable[tuple[str, str | bytes]]


class Gate:
    """Everybody who calls comes through it.

    Attributes:
        clients: Who may; replaced when the access file changes.
        clock: By which quotas are refilled.
    """

    def __init__(self, clients: Clients, *, health_open: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """Set up.

        Args:
            clients: Who may call.
            health_open: Whether questions whether something serves need no token.
            clock: The scheduler's clock.
        """
        self.clients = clients
        self.clock = clock
        self._health_open = health_open

    def door(self, method: str) -> Door | None:
        """What callers of a method come through; None if it is open to everybody.

        Args:
            method: `package.Service/Method`.

        Raises:
            KeyError: Nobody has said which role it takes.
        """
        roles = METHOD_ROLES[method]
        return None if self._health_open and method in HEALTH_METHODS else Door(self, method, roles)


class Door:
    """The way to one method."""

    __slots__ = ("_gate", "_method", "_roles")

    def __init__(self, gate: Gate, method: str, roles: frozenset[Role]) -> None:
        self._gate = gate
        self._method = method
        self._roles = roles

    def enter(self, metadata: Metadata | None) -> Client:
        """Let a call in.

        Args:
            metadata: What came with it.

        Raises:
            UnauthenticatedError: It shows no token, or one that is not known.
            NotAllowedError: Its client may not call this.
            QuotaExceededError: Its client has called too often.
        """
        client = self.recognize(metadata)
        self.admit(client)
        return client

    def knows(self, metadata: Metadata | None) -> bool:
        """Whether the token that comes with a call is known, and its message worth waiting for."""
        try:
            self.recognize(metadata)
        except UnauthenticatedError:
            return False
        return True

    def recognize(self, metadata: Metadata | None) -> Client:
        """Learn who calls, whether or not it may; errors as in `enter`, but only of the token."""
        return self._find(_shown(metadata))

    def admit(self, client: Client) -> None:
        """Let in who was recognized; errors as in `enter`, but of the token."""
        self._check(client)
        client.take_call(self._gate.clock())

    def open(self, metadata: Metadata | None) -> Visitor:
        """Let a stream begin, which counts as a call; arguments and errors as in `enter`."""
        visitor = Visitor(self, _shown(metadata))
        visitor.pay()
        return visitor

    def _pass(self, token_hash: bytes) -> Client:
        client = self._find(token_hash)
        self._check(client)
        return client

    def _find(self, token_hash: bytes) -> Client:
        client = self._gate.clients.find(token_hash)
        if client is None:
            raise UnauthenticatedError("the token is not known, or no longer")
        return client

    def _check(self, client: Client) -> None:
        if self._roles.isdisjoint(client.roles):
            needed = " or ".join(sorted(self._roles))
            raise NotAllowedError(f"the client {client.name} may not call {self._method}: that takes the role {needed}")


class Visitor:
    """Who has opened a stream. The hash of the token is kept, and looked up for each message."""

    __slots__ = ("_door", "_token_hash")

    def __init__(self, door: Door, token_hash: bytes) -> None:
        self._door = door
        self._token_hash = token_hash

    def client(self) -> Client:
        """The client as the access file says now.

        Raises:
            UnauthenticatedError: The token was revoked.
            NotAllowedError: The role was.
        """
        return self._door._pass(self._token_hash)  # noqa: SLF001 - its own door

    def pay(self) -> None:
        """Count a call; errors as in `Door.enter`."""
        self.client().take_call(self._door._gate.clock())  # noqa: SLF001 - as above


def _shown(metadata: Metadata | None) -> bytes:
    """The hash of the token that comes with a call."""
    values = [value for key, value in metadata or () if key == TOKEN_KEY]
    if not values:
        raise UnauthenticatedError(f"no token was sent: metadata {TOKEN_KEY}: Bearer TOKEN is needed here")
    scheme, _, token = values[0].partition(" ") if isinstance(values[0], str) else ("", "", "")
    token = token.strip(" ")
    if len(values) > 1 or scheme.lower() != _SCHEME or not token:
        raise UnauthenticatedError(f"metadata {TOKEN_KEY} is not Bearer TOKEN, once")
    return hash_of(token)
