"""One version of a model, made ready to serve aside from those that serve."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.lifecycle.load_thread import on_load_thread
from headwaiter_server.lifecycle.memory import resident_bytes
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.lifecycle.states import Known
from headwaiter_server.lifecycle.trial import Check
from headwaiter_server.log import get_logger
from headwaiter_server.metrics import Metrics

_log = get_logger(__name__)

_DEFAULT_VARIANT = "fp32"


class Built(Protocol):
    """A model that could serve."""

    @property
    def digest(self) -> str:
        """Of the files that it was built from."""
        ...


Model = TypeVar("Model", bound=Built)


class Workshop(Protocol[Model]):
    """Makes models, and gives them their place in the scheduler."""

    def build(
        self, location: BundleLocation, variant: str, predecessor: ServedModel | None, *, live: bool, tried: str
    ) -> Model:
        """Build the model of a bundle, and plan how it runs. Called on a thread of its own.

        Args:
            location: Where the bundle lies.
            variant: Which variant of its weights.
            predecessor: What serves under the name, the nearest version of it.
            live: Whether models serve already, which are to notice as little as possible.
            tried: The digest of the files that have passed their trial, on this processor; empty if none were tried.

        Raises:
            BundleError: It cannot serve, or its files are others than those that were tried.
        """
        ...

    def discard(self, model: Model) -> None:
        """Forget a model that will not serve. Called on the event loop."""
        ...

    def place(self, model: Model) -> ServedModel:
        """Give a model its place in the scheduler. Called on the event loop."""
        ...

    def remove(self, model: ServedModel) -> None:
        """Take a model out of the scheduler, with whom nobody works any more. Called on the event loop."""
        ...

    def tidy(self) -> None:
        """Give the memory of models that have gone back to the system. Called on a thread of its own."""
        ...


@dataclass(frozen=True)
class Made(Generic[Model]):
    """A version that could serve, and what it took to make it.

    Attributes:
        location: Where its bundle lies.
        model: What can be placed.
        seconds: That building it took.
        memory_bytes: By which the process has grown meanwhile.
    """

    location: BundleLocation
    model: Model
    seconds: float
    memory_bytes: int


class Maker(Generic[Model]):
    """Makes versions of models. Of all models, one is built at a time, which bounds the memory that loading takes."""

    def __init__(
        self,
        workshop: Workshop[Model],
        trial: Check,
        catalog: Catalog,
        metrics: Metrics,
        known: Known,
        variants: Mapping[str, str],
    ) -> None:
        """Set up.

        Args:
            workshop: Builds them.
            trial: Tries them before.
            catalog: What serves.
            metrics: Where it is counted what came of it.
            known: Where it is noted why one failed.
            variants: Which variant of a model's weights, by name.
        """
        self._workshop = workshop
        self._trial = trial
        self._catalog = catalog
        self._metrics = metrics
        self._known = known
        self._variants = variants
        self._building = asyncio.Lock()

    async def make(self, location: BundleLocation, *, at_start: bool = False) -> Made[Model]:
        """Try and build one version.

        Args:
            location: Where its bundle lies.
            at_start: Whether nobody can call yet what serves already, so that it has nothing to notice.

        Raises:
            BundleError: It cannot serve; log, metrics and index say so.
        """
        name, version = location.name, location.version
        variant = self._variants.get(name, _DEFAULT_VARIANT)
        try:
            with self._known.loading((name, version)):
                made = await self._tried_and_built(location, variant, at_start=at_start)
        except BundleError as error:
            self._known.failed((name, version), error.message)
            self._metrics.load_finished(name, loaded=False)
            _log.error("model_failed", model=name, version=version, reason=str(error))
            raise
        self._metrics.load_finished(name, loaded=True)
        _log.info("model_loaded", model=name, version=version, variant=variant, seconds=round(made.seconds, 3))
        return made

    async def _tried_and_built(self, location: BundleLocation, variant: str, *, at_start: bool) -> Made[Model]:
        if location.problem:
            raise BundleError(location.problem, location.said)
        try:
            digest = await self._trial.check(location, variant)
            async with self._building:
                return await self._build(location, variant, tried=digest, at_start=at_start)
        except BundleError:
            raise
        except Exception as error:
            # Whatever else a strange model makes a library raise, those that serve go on.
            _log.exception("load_broken", model=location.name, version=location.version)
            raise BundleError(f"{location.folder}: it cannot be loaded", f"{type(error).__name__}: {error}") from error

    async def _build(self, location: BundleLocation, variant: str, *, tried: str, at_start: bool) -> Made[Model]:
        versions = self._catalog.versions(location.name)
        nearest = min(versions, key=lambda each: abs(each - location.version), default=None)
        predecessor = None if nearest is None else versions[nearest]
        live = bool(self._catalog.all()) and not at_start
        work = partial(self._workshop.build, location, variant, predecessor, live=live, tried=tried)
        began, resident = time.monotonic(), resident_bytes()
        model = await on_load_thread(work, gives_way=live)
        return Made(location, model, time.monotonic() - began, max(0, resident_bytes() - resident))
