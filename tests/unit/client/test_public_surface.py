from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from importlib import resources

import headwaiter
import pytest
from headwaiter import AsyncClient, Client

SURFACE = [
    "SERVICE_CONFIG",
    "TLS",
    "AsyncClient",
    "AsyncGenerationStream",
    "Attention",
    "CallCancelledError",
    "ChannelOptions",
    "Classification",
    "ClassifyReply",
    "Client",
    "DeadlineExceededError",
    "EmbedReply",
    "EmbeddingInfo",
    "FinishReason",
    "GenerateReply",
    "GenerationPiece",
    "GenerationResult",
    "GenerationStream",
    "GraphKind",
    "HeadwaiterError",
    "HealthStatus",
    "Hypothesis",
    "InternalServerError",
    "InvalidRequestError",
    "LikelyToken",
    "Limits",
    "ModelInfo",
    "NotFoundError",
    "NotSupportedError",
    "OverloadedError",
    "PermissionDeniedError",
    "RankedText",
    "Reading",
    "RerankReply",
    "ResourceExhaustedError",
    "ServerUnreachableError",
    "Span",
    "StreamedReply",
    "TagReply",
    "Tagging",
    "Task",
    "Timings",
    "TokenLogprob",
    "Tokenization",
    "TokenizeReply",
    "UnauthenticatedError",
    "Vectors",
]


def test_the_surface_is_what_was_promised() -> None:
    """A name that users import appears or goes only together with this list."""
    assert headwaiter.__all__ == SURFACE
    assert all(hasattr(headwaiter, name) for name in SURFACE)


def test_the_surface_is_sorted() -> None:
    """Constants, then classes, each by name, as the linter sorts them."""
    assert sorted(SURFACE, key=lambda name: (not name.isupper(), name)) == SURFACE


@pytest.mark.parametrize("name", [name for name in SURFACE if dataclasses.is_dataclass(getattr(headwaiter, name))])
def test_values_are_frozen(name: str) -> None:
    """Results and options cannot be changed, nor grow attributes."""
    kind = getattr(headwaiter, name)
    assert kind.__dataclass_params__.frozen
    assert "__slots__" in vars(kind)
    assert kind.__doc__


def test_both_clients_have_the_same_methods() -> None:
    """What one client can do, with which arguments, the other can too."""

    def signatures(client: type) -> dict[str, inspect.Signature]:
        return {
            name: inspect.signature(value)
            for name, value in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_")
        }

    blocking, awaited = signatures(Client), signatures(AsyncClient)
    # A stream is of another kind in each, and the asyncio client takes asynchronous input as well.
    for stream in ("embed_stream", "generate_stream"):
        parameters = [
            [(each.name, each.kind, each.default) for each in methods.pop(stream).parameters.values()]
            for methods in (blocking, awaited)
        ]
        assert parameters[0] == parameters[1]
    assert blocking == awaited
    assert [*inspect.signature(Client.generate_stream).parameters] == [*blocking["generate"].parameters]
    assert inspect.signature(Client) == inspect.signature(AsyncClient)


def test_importing_is_light() -> None:
    """Importing the client loads neither numpy nor anything of the server or the health stubs."""
    # grpc itself imports an empty `grpc_health` where that is installed; its stubs are what would clash.
    unwanted = (
        "numpy",
        "pydantic",
        "onnxruntime",
        "torch",
        "grpc_health.v1.health_pb2",
        "headwaiter_server",
        "headwaiter.cli",
    )
    check = f"import sys, headwaiter; print([name for name in {unwanted} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_types_are_published() -> None:
    """Type checkers may read the package's annotations."""
    assert resources.files("headwaiter").joinpath("py.typed").is_file()
