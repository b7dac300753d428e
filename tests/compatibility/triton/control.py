"""Models loaded, unloaded and rolled back while the server runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from tritonclient.grpc import InferenceServerClient

from .checks import Server, connected, expect, refused, shows, tensor

_X = np.ones((1, 1), dtype=np.float32)


def serving(client: InferenceServerClient) -> str:
    """The version that answers: the model multiplies by its number."""
    answer = client.infer("times", [tensor("X", _X)])
    version: str = answer.get_response().model_version
    assert answer.as_numpy("Y")[0, 0] == float(version)
    return version


@contextmanager
def restoring(server: Server) -> Iterator[InferenceServerClient]:
    """A client; afterwards the model is loaded as it was at first."""
    with connected(server) as client:
        try:
            yield client
        finally:
            client.load_model("times")
            assert serving(client) == "2"


@shows("RepositoryIndex", "model control")
def check_index(server: Server) -> str:
    """Every model of the folder is listed with version and state."""
    with connected(server) as client:
        models = client.get_model_repository_index(as_json=True)["models"]
    states = {(each["name"], each.get("version", "")): each.get("state", "") for each in models}
    assert states["times", "2"] == states["minilm", "1"] == "READY"
    return ", ".join(sorted({name for name, _ in states}))


@shows("RepositoryModelUnload", "RepositoryModelLoad", "ModelReady", "model control")
def check_unload_and_load(server: Server) -> str:
    """An unloaded model is not ready, and the index says so; loaded again it answers."""
    with restoring(server) as client:
        client.unload_model("times")
        assert not client.is_model_ready("times")
        away = refused(client.infer, "times", [tensor("X", _X)])
        models = client.get_model_repository_index(as_json=True)["models"]
        (state,) = {each.get("state", "") for each in models if each["name"] == "times" and each.get("version") == "2"}
        assert state == "UNAVAILABLE"
        client.load_model("times")
        assert client.is_model_ready("times", "2")
        assert serving(client) == "2"
    return f"unloaded: {expect(away, 'NOT_FOUND', 'times')}"


@shows("RepositoryModelLoad", "model control")
def check_reload(server: Server) -> str:
    """Loading a model that is loaded changes nothing."""
    with restoring(server) as client:
        client.load_model("times")
        assert serving(client) == "2"
    return "still version 2"


@shows("RepositoryModelLoad", "model control")
def check_rollback(server: Server) -> str:
    """One call with a version policy rolls back to version 1, another serves both."""
    with restoring(server) as client:
        client.load_model("times", config=json.dumps({"version_policy": {"specific": {"versions": [1]}}}))
        back = serving(client)
        assert not client.is_model_ready("times", "2")
        client.load_model("times", config=json.dumps({"version_policy": {"all": {}}}))
        both = [client.infer("times", [tensor("X", _X)], model_version=each).as_numpy("Y")[0, 0] for each in "12"]
        assert serving(client) == "2"
        assert client.get_model_metadata("times", as_json=True)["versions"] == ["1", "2"]
    assert (back, both) == ("1", [1.0, 2.0])
    return f"version_policy specific [1]: version {back} answers; all: versions 1 and 2"


@shows("RepositoryModelLoad", "RepositoryModelUnload", "errors", "model control")
def check_errors(server: Server) -> str:
    """A model that is not in the folder, settings that are not honoured, files in the call."""
    with restoring(server) as client:
        unknown = refused(client.load_model, "nobody")
        expect(refused(client.load_model, "../times"), "NOT_FOUND")
        expect(refused(client.load_model, "times", config="{"), "INVALID_ARGUMENT", "config")
        missing = json.dumps({"version_policy": {"specific": {"versions": [9]}}})
        expect(refused(client.load_model, "times", config=missing), "FAILED_PRECONDITION", "9")
        rows = refused(client.load_model, "times", config=json.dumps({"max_batch_size": 4}))
        expect(rows, "UNIMPLEMENTED", "max_batch_size")
        files = {"file:1/model.onnx": b"no model"}
        expect(refused(client.load_model, "times", config="{}", files=files), "UNIMPLEMENTED", "file:1/model.onnx")
        assert serving(client) == "2"
    return expect(unknown, "NOT_FOUND", "nobody")
