"""A loaded model whose runs are to be planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from headwaiter_server.lifecycle.calibration import Asked, MakeText
from headwaiter_server.lifecycle.model_config import ModelSetup
from headwaiter_server.model.contract import BatchModel, Graph, Signature
from headwaiter_server.pacing import paced

AnyModel = BatchModel[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """A loaded model whose runs are to be planned: an encoder, or a `TensorSubject`.

    Attributes:
        name: Of the model.
        folder: The model's folder, which holds its versions.
        model: The model, with the threads of every run.
        graph: Bytes of its graph.
        build: Makes the model of its graph, opened.
        longest_tokens: Longest text that it takes.
        make_text: A text of so many tokens.
        most_tokens: Tokens of several texts that the model takes at a time, in parts if there are more; None for any
            number.
    """

    name: str
    folder: Path
    model: AnyModel
    graph: bytes
    build: Callable[[Graph], AnyModel]
    longest_tokens: int
    make_text: MakeText
    most_tokens: int | None = None

    @property
    def asked(self) -> Asked:
        """What is asked of it when it is measured."""
        return Asked()

    @property
    def identity(self) -> str:
        """What calibrations of it are remembered by."""
        return paced(partial(sha256, self.graph)).hexdigest()


@dataclass(frozen=True, slots=True)
class TensorSubject(Subject):
    """A loaded model of tensors whose runs are to be planned. Its tokens are rows, and its texts requests.

    Attributes:
        signature: What it takes and gives.
        setup: What its configuration asks for.
        files: Files with weights that its graph names.
        runs: Whether it runs on what `make_text` gives.
    """

    signature: Signature = field(kw_only=True)
    setup: ModelSetup = field(kw_only=True)
    files: Mapping[str, bytes] = field(default_factory=dict)
    runs: bool = True

    @property
    def asked(self) -> Asked:
        """See `Subject`."""
        return Asked(tuple(each.name for each in self.signature.outputs), rows=True, joined=self.signature.joined)

    @property
    def identity(self) -> str:
        """See `Subject`; what bounds its runs bounds what was measured."""
        digest = paced(partial(sha256, self.graph))
        for content in self.files.values():
            digest.update(content)
        digest.update(repr((self.signature, self.setup.threads)).encode())
        return digest.hexdigest()
