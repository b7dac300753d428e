"""One call to a model of texts, as its task sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from headwaiter_server.lifecycle.catalog import ServedModel
from headwaiter_server.model.contract import Array
from headwaiter_server.pipeline import Pipeline
from headwaiter_server.rpc.open_inference.options import Options
from headwaiter_server.rpc.open_inference.outputs import Outcome
from headwaiter_server.scheduling.admission import Permit
from headwaiter_server.scheduling.calls import Terms


@dataclass(slots=True)
class TextCall:
    """One call to a model of texts.

    Attributes:
        pipeline: Answers it.
        permit: Its place in the server.
        terms: What its caller asked of the scheduler.
        model: Who is asked.
        texts: Its inputs by name.
        options: What else it asks for.
        wanted: The outputs that it wants, by name, each with its path in the request.
        tell: Answers with some of the outputs' values, and returns when there is room for more; None of a call that has
            one answer.
    """

    pipeline: Pipeline
    permit: Permit
    terms: Terms
    model: ServedModel
    texts: dict[str, list[str]]
    options: Options
    wanted: Mapping[str, str]
    tell: Callable[[Mapping[str, Array]], Awaitable[None]] | None = None


TextTask = Callable[[TextCall], Awaitable[Outcome]]
