"""A manager of models that are built of nothing, in a repository of empty files."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.config.version_policy import VersionPolicies
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.building import check_tried, digest_of
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.lifecycle.manager import Manager
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.lifecycle.trial import NoTrials
from headwaiter_server.metrics import Metrics

NOTHING = cast("Any", None)


class Lane:
    """A lane whose runs are numbers."""

    def __init__(self) -> None:
        self.running = 0
        self.waiting = 0


@dataclass
class BuiltOfNothing:
    """A model that could serve."""

    location: BundleLocation
    digest: str


class FakeWorkshop:
    """Builds what has a manifest; one that says `bad` fails, and one that says `broken` breaks.

    Attributes:
        events: What was done, in order.
        at_once: Most builds at one time.
        on_build: Called in every build, on its thread.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.at_once = 0
        self.on_build: Callable[[str], None] = lambda _: None
        self.predecessors: list[tuple[int | None, bool]] = []
        self.tried: list[str] = []
        self._building = 0
        self._lock = threading.Lock()

    def build(
        self, location: BundleLocation, variant: str, predecessor: ServedModel | None, *, live: bool, tried: str
    ) -> BuiltOfNothing:
        self.tried.append(tried)
        with self._lock:
            self._building += 1
            self.at_once = max(self.at_once, self._building)
        try:
            self.predecessors.append((None if predecessor is None else predecessor.version, live))
            self.on_build(f"{location.name}:{location.version}")
            digest = digest_of(location)
            check_tried(location, digest, tried)
            text = (location.folder / "manifest.json").read_text(encoding="utf-8")
            if text.startswith("bad"):
                raise BundleError(f"{location.folder}: it is bad")
            if text.startswith("broken"):
                raise RuntimeError("secret")
            self.events.append(f"built {location.name}:{location.version} {variant}")
            return BuiltOfNothing(location, digest)
        finally:
            with self._lock:
                self._building -= 1

    def discard(self, model: BuiltOfNothing) -> None:
        self.events.append(f"discarded {model.location.name}:{model.location.version}")

    def place(self, model: BuiltOfNothing) -> ServedModel:
        self.events.append(f"placed {model.location.name}:{model.location.version}")
        manifest = bundle_pb2.Manifest(task=bundle_pb2.TASK_EMBED)
        return ServedModel(model.location.name, model.location.version, "fp32", manifest, NOTHING, cast("Any", Lane()))

    def remove(self, model: ServedModel) -> None:
        self.events.append(f"removed {model.name}:{model.version}")

    def tidy(self) -> None:
        self.events.append("tidied")


class Managed:
    """A manager, and everything around it that a test looks at."""

    def __init__(self, repository: Path, policies: str = "latest:1") -> None:
        self.repository = repository
        self.catalog = Catalog()
        self.workshop = FakeWorkshop()
        self.metrics = Metrics()
        self.serving: dict[str, bool] = {}
        self.manager: Manager[BuiltOfNothing] = Manager(
            repository,
            VersionPolicies.parse(policies),
            {},
            catalog=self.catalog,
            workshop=self.workshop,
            trial=NoTrials(),
            metrics=self.metrics,
            set_serving=self._set_serving,
        )

    async def _set_serving(self, name: str, *, serving: bool) -> None:
        await asyncio.sleep(0)  # whoever is told takes a moment
        self.serving[name] = serving

    def write(self, name: str, version: int, text: str = "good") -> Path:
        """Put a version into the repository, or write it anew."""
        folder = self.repository / name / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text(text, encoding="utf-8")
        return folder

    @property
    def found(self) -> list[str]:
        """What callers find."""
        return [f"{model.name}:{model.version}" for model in self.catalog.all()]

    async def index(self) -> dict[str, tuple[str, str]]:
        """State and reason of every version."""
        entries = await self.manager.index()
        return {f"{entry.name}:{entry.version}": (entry.state.value, entry.reason) for entry in entries}

    def loads(self, name: str, outcome: str) -> float | None:
        """How many loads ended so."""
        labels = {"model": name, "outcome": outcome}
        return self.metrics.registry.get_sample_value("headwaiter_model_loads_total", labels)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the event loop run until something is so."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)
