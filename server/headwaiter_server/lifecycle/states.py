"""What is known of the versions of models, beside which of them serve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

# Name and version.
Key = tuple[str, int]

_UNLOADED = "unloaded"


class State(Enum):
    """What becomes of calls to a version of a model; the names are those that Triton gives them."""

    READY = "READY"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version of a model, as the index shows it.

    Attributes:
        name: Of the model.
        version: Of the model; 0 where its folder holds none.
        state: Its state.
        reason: Why it is in it, if there is something to say.
    """

    name: str
    version: int
    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class Files:
    """The files that a version was built from.

    Attributes:
        stamp: See `BundleLocation`.
        digest: See `building.digest_of`.
    """

    stamp: str
    digest: str


class Known:
    """Remembers of each version which files it came from, whether it is being loaded, and why it does not serve."""

    def __init__(self) -> None:
        self._reasons: dict[Key, str] = {}
        self._files: dict[Key, Files] = {}
        self._loading: Counter[Key] = Counter()

    @contextmanager
    def loading(self, key: Key) -> Iterator[None]:
        """Take note that a version is being loaded, for as long as it is."""
        self._loading[key] += 1
        try:
            yield
        finally:
            self._loading[key] -= 1
            if not self._loading[key]:
                del self._loading[key]

    def is_loading(self, key: Key) -> bool:
        """Whether a version is being loaded."""
        return key in self._loading

    def files(self, key: Key) -> Files | None:
        """What a version that serves was built from."""
        return self._files.get(key)

    def reason(self, key: Key) -> str:
        """Why a version is not as it should be, if it is not: by itself or, as all of its model, by their folder."""
        return self._reasons.get(key) or self._reasons.get((key[0], 0), "")

    def folder_read(self, name: str) -> None:
        """Take note that a model's folder says which versions are to serve."""
        self._reasons.pop((name, 0), None)

    def loaded(self, key: Key, files: Files) -> None:
        """Take note that a version serves."""
        self._reasons.pop(key, None)
        self._files[key] = files

    def failed(self, key: Key, reason: str) -> None:
        """Take note of why a version could not be loaded; what serves of it goes on."""
        self._reasons[key] = reason

    def unloaded(self, key: Key) -> None:
        """Take note that a version has gone."""
        self._files.pop(key, None)
        self._reasons[key] = _UNLOADED

    def keep_only(self, keys: Collection[Key]) -> None:
        """Forget all other versions, and of models without any what their folders were."""
        kept = {*keys, *((name, 0) for name, _ in keys)}
        self._reasons = {key: reason for key, reason in self._reasons.items() if key in kept}
