"""The one owner of what is loaded: loads, swaps, rolls back and unloads while the server serves."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Generic, Protocol

from headwaiter_server.config.version_policy import VersionPolicies, VersionPolicy
from headwaiter_server.errors import BundleError, ConfigError, ModelLoadError, UnknownModelError
from headwaiter_server.lifecycle.building import digest_of
from headwaiter_server.lifecycle.catalog import Catalog
from headwaiter_server.lifecycle.draining import Drains
from headwaiter_server.lifecycle.load_thread import on_load_thread
from headwaiter_server.lifecycle.making import Made, Maker, Model, Workshop
from headwaiter_server.lifecycle.repository import BundleLocation, ModelFolder, find_models, look_up, scan
from headwaiter_server.lifecycle.states import Files, IndexEntry, Known, State
from headwaiter_server.lifecycle.trial import Check
from headwaiter_server.lifecycle.turns import Turns
from headwaiter_server.log import get_logger
from headwaiter_server.metrics import Metrics

_log = get_logger(__name__)


class SetServing(Protocol):
    """Who is told which models serve."""

    def __call__(self, name: str, *, serving: bool) -> Awaitable[None]:
        """Take note of it."""
        ...


class Manager(Generic[Model]):
    """Loads and unloads models; on the event loop only.

    Operations on one model take turns. Of all models, one is built at a time, which bounds the memory that loading
    takes. What serves is changed in one step, when all that is to serve anew is ready; what served before then answers
    the calls that it has, and only then goes.
    """

    def __init__(
        self,
        repository: Path,
        policies: VersionPolicies,
        variants: Mapping[str, str],
        *,
        catalog: Catalog,
        workshop: Workshop[Model],
        trial: Check,
        metrics: Metrics,
        set_serving: SetServing,
    ) -> None:
        """Begin with nothing loaded.

        Args:
            repository: Where models lie.
            policies: Which versions are to serve.
            variants: Which variant of a model's weights, by name.
            catalog: Where callers find them.
            workshop: Makes them.
            trial: Tries them before.
            metrics: Where loads are recorded.
            set_serving: Told which serve.
        """
        self._repository = repository
        self._policies = policies
        self._variants = variants
        self._catalog = catalog
        self._workshop = workshop
        self._metrics = metrics
        self._set_serving = set_serving
        self._turns = Turns()
        self._known = Known()
        self._maker = Maker(workshop, trial, catalog, metrics, self._known, variants)
        self._chosen: dict[str, VersionPolicy] = {}
        self._drains = Drains(workshop, catalog, self._known)
        self._own_place = _mentions_of(repository)

    async def start(self, *, allow_partial: bool, chosen: Collection[str] | None = None) -> list[ModelFolder]:
        """Load what is to serve from the beginning.

        Args:
            allow_partial: Whether to go on where a model fails.
            chosen: Names of the models; None for all that there are.

        Returns:
            The repository as it was found.

        Raises:
            BundleError: One failed, or there is none.
            ConfigError: The settings name a model that is not there.
        """
        folders = await asyncio.to_thread(find_models, self._repository)
        self._check_names(folders, "variant", self._variants)
        self._check_names(folders, "version-policy", self._policies.by_model)
        self._check_names(folders, "load-models", chosen or ())
        for folder in folders:
            if chosen is not None and folder.name not in chosen:
                continue
            failing = False
            policy, wanted = await self._choose(folder, None)
            if policy is not None:
                self._chosen[folder.name] = policy
            for location in wanted:
                try:
                    made = await self._maker.make(location, at_start=True)
                except BundleError as error:
                    if not allow_partial:
                        raise error.within(f"model {location.name!r} failed to load") from error
                    failing = True
                    continue
                await self._take_over(location.name, [made], ())
            self._metrics.load_failing(folder.name, failing=failing)
        if not self._catalog.all() and (chosen is None or chosen):
            raise BundleError(f"no model of {self._repository} could be loaded")
        return folders

    async def load(self, name: str, policy: VersionPolicy | None = None) -> None:
        """Have the versions of a model serve that are to, as their files are now, and no others.

        What fails changes nothing for what serves.

        Args:
            name: Of the model.
            policy: Which versions; None for what settings and folder say.

        Raises:
            UnknownModelError: The repository holds no such model.
            ModelLoadError: A version failed.
            OverloadedError: Not now.
        """
        await self._look_up(name)  # names that lead nowhere take nobody's turn
        await self._turns.take(name, ("load", policy), partial(self._load, name, policy))

    async def unload(self, name: str) -> None:
        """Have no version of a model serve; calls that it has are answered before this returns.

        Raises:
            UnknownModelError: There is no such model.
            OverloadedError: Not now.
        """
        if not self._catalog.versions(name):
            await self._look_up(name)
        await self._turns.take(name, "unload", partial(self._unload, name))

    async def reconcile(self, name: str) -> None:
        """Have of a model serve what the repository says now; nothing if it is gone from there."""

        async def operate() -> None:
            try:
                await self._load(name, None)
            except UnknownModelError:
                await self._unload(name)

        await self._turns.take(name, "reconcile", operate)

    async def index(self) -> list[IndexEntry]:
        """All models and versions that the repository holds or that serve, by name and version.

        Raises:
            BundleError: The repository cannot be read.
        """
        folders = await asyncio.to_thread(scan, self._repository)
        found = {(folder.name, version) for folder in folders for version in folder.versions or (0,)}
        problems = {(folder.name, 0): folder.problem for folder in folders if not folder.versions}
        serving = {(model.name, model.version) for model in self._catalog.placed()}
        self._known.keep_only(found | serving)
        return [
            IndexEntry(*key, self.state(*key), self._for_callers(self._known.reason(key) or problems.get(key, "")))
            for key in sorted(found | serving)
        ]

    def policy(self, name: str) -> VersionPolicy:
        """Which versions of a model serve, by the latest load of it."""
        return self._chosen.get(name, self._policies.of(name, None))

    def state(self, name: str, version: int = 0) -> State:
        """What becomes of calls to a version of a model; 0 for the highest that serves."""
        versions = self._catalog.versions(name)
        if version in versions or (not version and versions):
            return State.READY
        if self._known.is_loading((name, version)):
            return State.LOADING
        return State.UNLOADING if (name, version) in self._drains else State.UNAVAILABLE

    async def close(self) -> None:
        """Abandon what is being loaded, and load nothing more."""
        await self._turns.close()
        await self._drains.close()

    async def _look_up(self, name: str) -> ModelFolder:
        try:
            return await asyncio.to_thread(look_up, self._repository, name)
        except UnknownModelError:
            if not self._catalog.versions(name):
                self._metrics.load_forgotten(name)
            raise
        except BundleError as error:
            _log.error("repository_unreadable", reason=str(error))
            raise ModelLoadError(self._for_callers(error.message)) from error

    async def _load(self, name: str, policy: VersionPolicy | None) -> None:
        began = time.monotonic()
        folder = await self._look_up(name)
        policy, wanted = await self._choose(folder, policy)
        made: list[Made[Model]] = []
        failures = []
        try:
            for location in wanted:
                try:
                    if not await self._serves(location):
                        made.append(await self._maker.make(location))
                except BundleError as error:
                    failures.append(self._for_callers(error.message))
        except asyncio.CancelledError:
            for each in made:
                self._workshop.discard(each.model)
            raise
        versions = {location.version for location in wanted}
        # What is there to do without is kept while anything is missing of what is to come.
        removed = () if failures else self._catalog.versions(name).keys() - versions
        swapped = bool(made) and bool(self._catalog.versions(name))
        await self._take_over(name, made, removed)
        self._metrics.load_failing(name, failing=bool(failures))
        if swapped:
            self._metrics.model_swapped(name, time.monotonic() - began)
        if failures:
            raise ModelLoadError(f"model {name!r} failed to load: {'; '.join(failures)}")
        if policy is not None:
            self._chosen[name] = policy

    async def _choose(
        self, folder: ModelFolder, policy: VersionPolicy | None
    ) -> tuple[VersionPolicy | None, list[BundleLocation]]:
        """The policy of a model and what is to serve by it; none, and the folder's problem, where that says none."""
        if policy is None:
            try:
                policy = await asyncio.to_thread(folder.policy, self._policies)
            except BundleError as error:
                return None, [BundleLocation(folder.name, 0, folder.folder, error.message, said=error.said)]
        self._known.folder_read(folder.name)
        return policy, folder.bundles(policy)

    async def _serves(self, location: BundleLocation) -> bool:
        """Whether a version serves already, as its files are now."""
        key = (location.name, location.version)
        files = self._known.files(key)
        if location.problem or files is None or location.version not in self._catalog.versions(location.name):
            return False
        # Touched, or written again: what counts is what they hold.
        if files.stamp != location.stamp:
            try:
                digest = await on_load_thread(partial(digest_of, location))
            except Exception:  # noqa: BLE001 - whatever it is, loading it says so
                return False
            if digest != files.digest:
                return False
        self._known.loaded(key, Files(location.stamp, files.digest))
        return True

    async def _take_over(self, name: str, made: Collection[Made[Model]], removed: Collection[int]) -> None:
        """Change what serves, in one step of the event loop."""
        added = []
        for each in made:
            model = self._workshop.place(each.model)
            version, manifest = str(model.version), model.manifest
            self._known.loaded((name, model.version), Files(each.location.stamp, each.model.digest))
            self._metrics.model_loaded(name, version, model.variant, model.task, manifest.architecture)
            self._metrics.model_cost(name, version, load_seconds=each.seconds, memory_bytes=each.memory_bytes)
            added.append(model)
        for old in self._catalog.exchange(name, added, removed):
            self._drains.begin(old)
        for number in removed:
            self._metrics.model_unloaded(name, str(number))
        if added or removed:
            await self._set_serving(name, serving=bool(self._catalog.versions(name)))

    async def _unload(self, name: str) -> None:
        versions = list(self._catalog.versions(name))
        await self._take_over(name, (), versions)
        self._metrics.load_failing(name, failing=False)
        self._chosen.pop(name, None)
        await self._drains.over(name)

    def _for_callers(self, message: str) -> str:
        """A message with names relative to the model repository: where that lies is not for callers to know."""
        return self._own_place.sub(lambda found: "" if found[0].endswith(os.sep) else "the model repository", message)

    def _check_names(self, folders: Collection[ModelFolder], setting: str, names: Collection[str]) -> None:
        if unknown := sorted(set(names) - {folder.name for folder in folders}):
            raise ConfigError(f"--{setting} names no model of {self._repository}: {', '.join(unknown)}")


def _mentions_of(repository: Path) -> re.Pattern[str]:
    """Finds where a model repository lies in messages, with the separator behind it before a name in it."""
    place = re.escape(str(repository))
    before, inside = r"(?<![\w./-])", f"{os.sep}+"
    if os.sep in str(repository):
        return re.compile(rf"{before}{place}(?:{inside}|(?!-|\.?\w))")
    # A plain word, such as `models`, is one of the sentence but at its beginning and its end.
    return re.compile(rf"{before}{place}(?:{inside}|$)|^{place}(?!-|\.?\w)")
