"""What building hands to the planner is what can be measured: small real graphs, on the real clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from headwaiter_proto.v1 import bundle_pb2
from headwaiter_server.config import ServerSettings
from headwaiter_server.lifecycle.building import build_model
from headwaiter_server.lifecycle.calibration import Calibrator
from headwaiter_server.lifecycle.memory import MemoryPlan
from headwaiter_server.lifecycle.planning import Planner
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.lifecycle.subject import Subject
from headwaiter_server.metrics import Metrics
from headwaiter_server.model.onnx import OnnxGraph
from headwaiter_server.model.session import RUNTIME_VERSION

from .test_load_encoder import LENGTHS, Made
from .test_manifest_encoder import PACKED, PADDED


@pytest.mark.parametrize(
    ("task", "kind"),
    [(bundle_pb2.TASK_EMBED, PACKED), (bundle_pb2.TASK_EMBED, PADDED), (bundle_pb2.TASK_TAG, PACKED)],
)
def test_loaded_encoder_can_be_planned(task: bundle_pb2.Task, kind: bundle_pb2.GraphKind, tmp_path: Path) -> None:
    """The subject is the loaded model, its texts are made of tokens that it knows, its graph opens a second time."""
    made = Made(tmp_path / "small", task, kind)
    made.load()
    built = build_model(
        BundleLocation("small", 1, made.folder), "fp32", lambda name, graph: OnnxGraph.load(name, graph, 1)
    )
    subject = built.body
    assert isinstance(subject, Subject)
    assert subject.folder == tmp_path / "small"
    text = subject.make_text(50)
    assert len(text) == 50
    assert set(text.ids) <= set(range(1, sum(LENGTHS) + 1))
    settings = ServerSettings(models=tmp_path, lone_run_threads=2)
    planner = Planner(
        settings, Metrics(), MemoryPlan(None), OnnxGraph.load, RUNTIME_VERSION, Calibrator(workers=2), cpus=2
    )
    planned = planner.plan(subject)
    plan, lone_model = planned.calibration, planned.lone_model
    assert plan.samples
    assert max(each.longest for each in plan.samples) <= subject.longest_tokens
    assert lone_model is not None
    assert len(lone_model.run([text], [False])) == 1
