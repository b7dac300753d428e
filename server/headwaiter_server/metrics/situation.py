"""What the live page is told of the server beside its figures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

# By task: what stands before and after the target in a command that calls a model.
_COMMANDS = {
    "generate": ("headwaiter generate --model {model} --target", "hello"),
    "embed": ("echo 'Hello, world' | headwaiter embed --model {model} --target", ""),
    "classify": ("headwaiter classify --model {model} --target", "'Hello, world'"),
    "tag": ("headwaiter tag --model {model} --target", "'Ada Lovelace lived in London'"),
    "rerank": ("headwaiter rerank --model {model} --target", "'Who serves?' 'A waiter serves.' 'A cook cooks.'"),
}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model that serves.

    Attributes:
        name: Its name.
        task: What it does, such as `embed`.
        budget_tokens: Most tokens of its runs; None where runs are bounded by something else.
    """

    name: str
    task: str
    budget_tokens: float | None = None

    def first_call(self) -> tuple[str, ...]:
        """What stands before and after the target in a command that calls it; nothing if no command does."""
        if self.task not in _COMMANDS:
            return ()
        before, after = _COMMANDS[self.task]
        return before.format(model=shlex.quote(self.name)), after


@dataclass(frozen=True, slots=True)
class Situation:
    """What the page is told of the server beside its figures.

    Attributes:
        run: Another text for every start of a server.
        started: When that was, in Unix time.
        version: Of the server.
        state: `loading`, `ready` or `draining`.
        workers: Of the scheduler.
        slo_seconds: The configured objective.
        targets: Where gRPC is served.
        models: That serve.
    """

    run: str
    started: float
    version: str
    state: str
    workers: int
    slo_seconds: float
    targets: Sequence[str] = ()
    models: Sequence[ModelFacts] = ()
