"""The models that are loaded, by name and version."""

from __future__ import annotations

from dataclasses import dataclass

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_server.batching.lane import EncoderLane
from headwaiter_server.errors import UnknownModelError
from headwaiter_server.generation.lane import GenerationLane
from headwaiter_server.tokenizer import TextTokenizer


@dataclass(frozen=True)
class ServedModel:
    """A model that answers calls.

    Attributes:
        name: As requests name it.
        version: Its version.
        variant: Which variant of its weights serves.
        manifest: Its bundle's manifest.
        tokenizer: Its tokenizer.
        lane: Where its texts wait and run.
    """

    name: str
    version: int
    variant: str
    manifest: bundle_pb2.Manifest
    tokenizer: TextTokenizer
    lane: GenerationLane | EncoderLane

    @property
    def task(self) -> str:
        """What it does, as people say it: "embed"."""
        return task_name(self.manifest.task)


# Of the models or versions that there are, how many an error names.
_MOST_NAMED = 10


class Catalog:
    """Finds models for requests."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, ServedModel]] = {}

    def add(self, model: ServedModel) -> None:
        """Let a model be found."""
        self._models.setdefault(model.name, {})[model.version] = model

    def all(self) -> list[ServedModel]:
        """Every model, by name, then version."""
        return [self._models[name][version] for name in sorted(self._models) for version in sorted(self._models[name])]

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
