"""Which versions of a model are to serve, of those that there are."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Self

_POLICY = re.compile(r"all|latest:[1-9]\d{0,8}|specific:[1-9]\d{0,17}(,[1-9]\d{0,17})*")
_EXPECTED = "expected latest:COUNT, all, or specific:VERSION,VERSION,... with versions from 1 on"
_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)=(?P<policy>.+)")


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Chooses versions; all of them unless told otherwise.

    Attributes:
        latest: The highest so many.
        specific: These, whether they are there or not.
    """

    latest: int | None = None
    specific: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The policy that a text names.

        Raises:
            ValueError: It names none.
        """
        if _POLICY.fullmatch(text) is None:
            raise ValueError(f"{_EXPECTED}; got {text!r}")
        kind, _, numbers = text.partition(":")
        if kind == "latest":
            return cls(latest=int(numbers))
        return cls(specific=tuple(sorted({int(number) for number in numbers.split(",")})) if numbers else ())

    def chosen(self, versions: Collection[int]) -> list[int]:
        """The versions that are to serve, ascending; of specific ones also those that are not there."""
        if self.specific:
            return list(self.specific)
        ascending = sorted(versions)
        return ascending if self.latest is None else ascending[-self.latest :]

    def __str__(self) -> str:
        if self.specific:
            return f"specific:{','.join(map(str, self.specific))}"
        return "all" if self.latest is None else f"latest:{self.latest}"


LATEST = VersionPolicy(latest=1)


@dataclass(frozen=True, slots=True)
class VersionPolicies:
    """The policies that the settings give.

    Attributes:
        default: For models of which nothing else is said, here or in their folder.
        by_model: For some models by name, whatever their folder says.
    """

    default: VersionPolicy = LATEST
    by_model: Mapping[str, VersionPolicy] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Policies from POLICY or NAME=POLICY, several separated by commas.

        Raises:
            ValueError: Something in it is neither, or stands there twice.
        """
        default: VersionPolicy | None = None
        by_model: dict[str, VersionPolicy] = {}
        for part in _parts(text):
            named = _NAMED.fullmatch(part)
            if named is not None:
                if named["name"] in by_model:
                    raise ValueError(f"names {named['name']} twice")
                by_model[named["name"]] = VersionPolicy.parse(named["policy"])
            elif default is not None:
                raise ValueError("gives two policies for all models: put NAME= before those for one")
            else:
                default = VersionPolicy.parse(part)
        return cls(default or LATEST, by_model)

    def of(self, name: str, in_folder: VersionPolicy | None) -> VersionPolicy:
        """The policy of a model.

        Args:
            name: Its name.
            in_folder: What its folder says.
        """
        return self.by_model.get(name) or in_folder or self.default


def _parts(text: str) -> list[str]:
    """What stands between commas, but for those between the numbers of one policy."""
    parts: list[str] = []
    for part in (each.strip() for each in text.split(",")):
        if part.isdecimal() and parts:
            parts[-1] += f",{part}"
        elif part:
            parts.append(part)
    return parts
