"""The models that are loaded, by name and version."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.batching.lane import EncoderLane, TensorLane
from headwaiter_server.errors import InvalidRequestError, UnknownModelError
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.lifecycle.leases import Leases
from headwaiter_server.lifecycle.model_config import ModelSetup
from headwaiter_server.metrics.statistics import ModelCounts
from headwaiter_server.model.contract import Signature
from headwaiter_server.tokenizer import TextTokenizer

_NO_TENSORS = Signature((), (), 0)


@dataclass(frozen=True)
class ServedModel:
    """A model that answers calls.

    Attributes:
        name: As requests name it.
        version: Its version.
        variant: Which variant of its weights serves.
        manifest: Its bundle's manifest.
        text_tokenizer: Its tokenizer; None for a model of tensors.
        lane: Where its texts wait and run.
        leases: Who works with it.
        counts: What it has done.
        signature: What it takes and gives in tensors.
        setup: What its configuration asks for, of a model of tensors.
    """

    name: str
    version: int
    variant: str
    manifest: bundle_pb2.Manifest
    text_tokenizer: TextTokenizer | None
    lane: GenerationLane | EncoderLane | TensorLane
    leases: Leases = field(default_factory=Leases, compare=False, repr=False)
    counts: ModelCounts = field(default_factory=ModelCounts, compare=False, repr=False)
    signature: Signature = _NO_TENSORS
    setup: ModelSetup | None = None

    @property
    def tokenizer(self) -> TextTokenizer:
        """Its tokenizer.

        Raises:
            InvalidRequestError: It takes tensors, and no texts.
        """
        if self.text_tokenizer is None:
            raise InvalidRequestError("model", f"{self.name!r} takes tensors, and no texts")
        return self.text_tokenizer

    @property
    def task(self) -> str:
        """What it does, as people say it: "embed"."""
        return task_name(self.manifest.task)


# Of the models or versions that there are, how many an error names.
_MOST_NAMED = 10


class Catalog:
    """Finds models for requests."""

    def __init__(self) -> None:
        # Replaced as a whole when it changes, and never altered: other threads read it.
        self._models: dict[str, dict[int, ServedModel]] = {}
        self._leaving: tuple[ServedModel, ...] = ()

    def add(self, model: ServedModel) -> None:
        """Let a model be found."""
        self.exchange(model.name, [model], [])

    def exchange(self, name: str, added: Collection[ServedModel], removed: Collection[int]) -> list[ServedModel]:
        """Change what serves under a name, in one step.

        Args:
            name: The name.
            added: Models that can be found from now on, each in place of its version if there is one.
            removed: Versions that cannot be found any more.

        Returns:
            The models that cannot be found any more. Calls may still be working with them.
        """
        before = self._models.get(name, {})
        after = {version: model for version, model in before.items() if version not in removed}
        after |= {model.version: model for model in added}
        others = {other: versions for other, versions in self._models.items() if other != name}
        self._models = {**others, name: after} if after else others
        left = [model for version, model in before.items() if after.get(version) is not model]
        self._leaving += tuple(left)
        return left

    def forget(self, model: ServedModel) -> None:
        """Take note that nobody works any more with a model that cannot be found."""
        self._leaving = tuple(each for each in self._leaving if each is not model)

    def all(self) -> list[ServedModel]:
        """Every model that can be found, by name, then version."""
        models = self._models
        return [models[name][version] for name in sorted(models) for version in sorted(models[name])]

    def placed(self) -> list[ServedModel]:
        """Every model that somebody may be working with: also those that cannot be found any more."""
        return [*self.all(), *self._leaving]

    def versions(self, name: str) -> Mapping[int, ServedModel]:
        """The versions of a model that can be found."""
        return self._models.get(name, {})

    def find(self, name: str, version: int) -> ServedModel:
        """The model that a request asks for.

        Args:
            name: Its name; empty when the server holds exactly one.
            version: Its version; 0 for the highest.

        Raises:
            UnknownModelError: There is none; the message names some that exist.
        """
        if not name:
            if len(self._models) != 1:
                raise UnknownModelError(f"name a model: this server holds {self._names()}")
            (name,) = self._models
        versions = self._models.get(name)
        if versions is None:
            raise UnknownModelError(f"no model {name[:100]!r}: this server holds {self._names()}")
        version = version or max(versions)
        if version not in versions:
            known = _listed([str(each) for each in sorted(versions)])
            raise UnknownModelError(f"no version {version} of model {name!r}: this server holds {known}")
        return versions[version]

    def _names(self) -> str:
        return _listed(sorted(self._models)) or "none"


def _listed(names: list[str]) -> str:
    more = [f"and {len(names) - _MOST_NAMED} more"] if len(names) > _MOST_NAMED else []
    return ", ".join([*names[:_MOST_NAMED], *more])


def task_name(task: bundle_pb2.Task) -> str:
    """A task as people say it: "embed"."""
    return bundle_pb2.Task.Name(task).removeprefix("TASK_").lower()
