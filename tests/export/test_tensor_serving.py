"""What `export_module` writes, the server loads and answers as PyTorch does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from headwaiter_export import export_module
from headwaiter_server.lifecycle.building import build_model
from headwaiter_server.lifecycle.repository import BundleLocation
from headwaiter_server.lifecycle.subject import TensorSubject
from headwaiter_server.model.contract import Graph
from headwaiter_server.model.onnx import OnnxGraph
from headwaiter_server.model.tensors import rows_of
from torch import Tensor, nn

pytestmark = pytest.mark.torch


def open_graph(
    name: str, graph: bytes, *, files: Mapping[str, bytes] | None = None, threads: int | None = None
) -> Graph:
    return OnnxGraph.load(name, graph, threads or 1, files=files)


def load(folder: Path) -> TensorSubject:
    subject = build_model(BundleLocation(folder.parent.name, 1, folder), "fp32", open_graph).body
    assert isinstance(subject, TensorSubject)
    return subject


class _Mixed(nn.Module):
    """Floats, whole numbers and flags in, and an axis of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.dense = nn.Linear(4, 3)

    def forward(self, ids: Tensor, mask: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.embed(ids) * mask.unsqueeze(-1)
        pooled = self.dense(hidden.sum(1)) * gain
        return pooled, pooled.argmax(-1)


class _Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


def test_exported_module_answers_as_in_pytorch(tmp_path: Path) -> None:
    """Requests of one length share a run; each gets its own rows."""
    torch.manual_seed(0)
    module = _Mixed().eval()
    example = [torch.randint(0, 10, (3, 6)), torch.ones(3, 6, dtype=torch.bool), torch.randn(3, 1)]
    axes = {"ids": {1: "length"}, "mask": {1: "length"}}
    names = ["ids", "mask", "gain"]
    folder = tmp_path / "mixed" / "1"
    export_module(module, example, folder, input_names=names, output_names=["scores", "best"], axes=axes)
    subject = load(folder)
    assert [(each.datatype, each.shape) for each in subject.signature.inputs] == [
        ("INT64", (-1, -1)),
        ("BOOL", (-1, -1)),
        ("FP32", (-1, 1)),
    ]
    assert [each.datatype for each in subject.signature.outputs] == ["FP32", "INT64"]
    assert subject.signature.joined
    requests = [
        [torch.randint(0, 10, (rows, 4)), torch.rand(rows, 4) < 0.7, torch.randn(rows, 1)] for rows in (1, 3, 2)
    ]
    sources = [
        rows_of(subject.signature, {name: each.numpy() for name, each in zip(names, tensors, strict=True)})
        for tensors in requests
    ]
    assert len({each.likeness for each in sources}) == 1
    answers = subject.model.run(sources, [("scores", "best")] * len(sources))
    for tensors, answer in zip(requests, answers, strict=True):
        with torch.no_grad():
            scores, best = module(*tensors)
        np.testing.assert_allclose(answer["scores"], scores.numpy(), atol=1e-5)
        np.testing.assert_array_equal(answer["best"], best.numpy())


def test_module_whose_rows_lean_on_one_another_is_served_one_request_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "centred" / "1"
    export_module(_Centred(), [torch.randn(4, 5)], folder, input_names=["x"], output_names=["y"])
    signature = load(folder).signature
    assert (signature.joined, signature.max_batch_size) == (False, 64)
