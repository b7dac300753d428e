"""Nothing is unpickled while a server loads models and answers, nor by any of the libraries that it does so with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from e2e.process import environment, running_server
from headwaiter import Client
from headwaiter_proto.inference import grpc_service_pb2, grpc_service_pb2_grpc
from unit.server.tensor_graphs import bare, picked
from unit.server.test_load_encoder import Made

# Python itself tells of every class that a pickle names, before it is looked up.
_HOOK = """\
import os, sys

def hook(event, arguments):
    if event == "pickle.find_class":
        os.write(2, f"unpickled {arguments}".encode())
        os._exit(99)

sys.addaudithook(hook)
"""


@pytest.fixture(autouse=True)
def _noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every interpreter that is started here end at once if it unpickles an object."""
    folder = tmp_path / "hook"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_HOOK)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_unpickling_would_be_noticed() -> None:
    """Whichever way it comes about."""
    arrays = "np.save(file, np.array([dict], object)); file.seek(0); np.load(file, allow_pickle=True)"
    for code in (
        "import pickle, collections; pickle.loads(pickle.dumps(collections.OrderedDict()))",
        f"import io, numpy as np; file = io.BytesIO(); {arrays}",
    ):
        done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, check=False)
        assert (done.returncode, done.stderr[:9]) == (99, b"unpickled")


def test_nothing_is_unpickled_by_a_server(models_dir: Path, tmp_path: Path) -> None:
    """It loads a model of each kind, answers, loads one again, and ends as it should; so does what tries models."""
    repository = tmp_path / "models"
    made = Made(repository / "small")
    made.write()
    bare(repository, picked(), name="picked")
    (repository / "pronounce").symlink_to(models_dir.resolve() / "pronounce")
    # A cache of its own: no model has been tried before.
    (tmp_path / "cache").mkdir()
    flags = ("--model-control", "explicit", "--calibration-cache", str(tmp_path / "cache"), "--lame-duck-seconds", "0")
    with (
        running_server("--models", str(repository), *flags) as server,
        Client(server.grpc) as client,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert len(client.embed(["w1 w2"], model="small").vectors) == 1
        assert client.generate(["word"], model="pronounce").generations[0].text
        request = grpc_service_pb2.ModelInferRequest(model_name="picked", raw_input_contents=[np.array([1]).tobytes()])
        request.inputs.add(name="index", datatype="INT64", shape=[1])
        assert stub.ModelInfer(request, timeout=30).raw_output_contents
        made.manifest.architecture = "another"
        made.write()
        stub.RepositoryModelLoad(grpc_service_pb2.RepositoryModelLoadRequest(model_name="small"), timeout=60)
        assert len(client.embed(["w1 w2"], model="small").vectors) == 1
        assert server.terminate() == 0
