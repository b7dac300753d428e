"""The clients of a server, and how one is found by the token that it shows."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from headwaiter_server.access.quotas import Bucket
from headwaiter_server.access.roles import Role
from headwaiter_server.errors import QuotaExceededError


@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """One client.

    Attributes:
        name: Under which it is known, and has its fair share.
        token_hashes: SHA-256 of each of its tokens.
        roles: What it may do.
        weight: How much its share is of that of another, whose weight is 1.
        highest_priority: The first priority level that it may ask for.
        calls: What is left of its quota of calls; None without one.
        texts: Likewise of texts.
    """

    name: str
    token_hashes: tuple[bytes, ...]
    roles: frozenset[Role]
    weight: float = 1.0
    highest_priority: int = 1
    calls: Bucket | None = None
    texts: Bucket | None = None

    def take_call(self, now: float) -> None:
        """Count a call, or a message of a stream.

        Args:
            now: Seconds on the scheduler's clock.

        Raises:
            QuotaExceededError: The quota is used up.
        """
        if self.calls is not None and (wait := self.calls.take(1, now)):
            raise QuotaExceededError(_used_up(self.name, self.calls, "calls"), wait)

    def text_quota(self, clock: Callable[[], float]) -> Callable[[int], None] | None:
        """What counts the texts of a call, or its rows of tensors, and raises as `take_call` does; None counts none.

        Args:
            clock: The scheduler's clock.
        """
        if (bucket := self.texts) is None:
            return None

        def take(count: int) -> None:
            if wait := bucket.take(count, clock()):
                raise QuotaExceededError(_used_up(self.name, bucket, "texts"), wait)

        return take


class Clients:
    """All of them; never changed, only replaced."""

    def __init__(self, clients: Iterable[Client]) -> None:
        """Take them in; names and hashes are each there once."""
        self.by_name: Mapping[str, Client] = MappingProxyType({client.name: client for client in clients})
        self._secret = secrets.token_bytes(32)
        self._by_mark = {
            self._mark(known): (known, client) for client in self.by_name.values() for known in client.token_hashes
        }

    def __len__(self) -> int:
        return len(self.by_name)

    def find(self, token_hash: bytes) -> Client | None:
        """The client that has a token with this hash.

        It takes no longer the nearer a guess comes: what is compared byte by byte in the look-up is not the hash but
        a mark of it, made with a key that is drawn anew for every table and never leaves the process. Whoever tries
        tokens, and could compute their hashes, learns nothing from the time. (Both sides hashed with a secret key
        before they are compared: "double HMAC verification".) What is found is compared whole, in constant time.
        """
        known, client = self._by_mark.get(self._mark(token_hash), (b"", None))
        return client if hmac.compare_digest(known, token_hash) else None

    def _mark(self, token_hash: bytes) -> bytes:
        return hashlib.blake2b(token_hash, key=self._secret).digest()


def _used_up(name: str, bucket: Bucket, what: str) -> str:
    return f"the quota of the client {name} is used up: {bucket.per_second:g} {what} a second, {bucket.burst:g} at once"
