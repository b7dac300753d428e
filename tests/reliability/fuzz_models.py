"""The models of a fuzzing run: a small one for each task."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
from compatibility.models import write_models
from reliability.fuzz_seeds import ENCODERS, GENERATORS, SPARE, TENSORS


def gather(folder: Path, *repositories: Path) -> Path:
    """Put a model of each kind into one repository.

    Args:
        folder: Where.
        repositories: Where the models of texts are; they are not copied.

    Returns:
        The repository.
    """
    models = folder / "models"
    written = folder / "tensors"
    write_models(written)
    _write_lookup(written / "lookup" / "1")
    models.mkdir()
    for name in TENSORS:
        (models / name).symlink_to((written / name).resolve())
    shutil.copytree(written / "times", models / SPARE)
    for repository in repositories:
        for name in (*ENCODERS, *GENERATORS):
            if (repository / name).exists():
                (models / name).symlink_to((repository / name).resolve())
    return models


def export(folder: Path, pronounce: Path) -> Path:
    """Export small models of all tasks, and gather them with pronounce; takes half a minute.

    Args:
        folder: Where.
        pronounce: A repository that has it.

    Returns:
        The repository.
    """
    from e2e import tiny_encoders, tiny_generators  # noqa: PLC0415 - pulls in torch
    from headwaiter_export import export_checkpoint  # noqa: PLC0415 - as above
    from headwaiter_export.architectures import Options  # noqa: PLC0415 - as above

    exported = folder / "exported"
    for task, checkpoint in tiny_encoders.write_checkpoints(folder / "checkpoints" / "encoders").items():
        options = Options(task=task, graph="padded" if task == "tag" else "packed")
        export_checkpoint(checkpoint, exported / task / "1", options)
    for name, checkpoint in tiny_generators.write_checkpoints(folder / "checkpoints" / "generators").items():
        export_checkpoint(checkpoint, exported / name / "1")
    return gather(folder, exported, pronounce)


def _write_lookup(folder: Path) -> None:
    """Rows of a table by their index, of which there are eight: the one model that cannot answer everything."""
    shape = ["rows", "columns"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gather", ["table", "indices"], ["found"])],
        "lookup",
        [onnx.helper.make_tensor_value_info("indices", onnx.TensorProto.INT64, shape)],
        [onnx.helper.make_tensor_value_info("found", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor("table", onnx.TensorProto.FLOAT, [8], [float(index) for index in range(8)])],
    )
    folder.mkdir(parents=True)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9),
        folder / "model.onnx",
    )
