"""Export trained PyTorch Transformers to verified ONNX bundles.

Importing this is cheap; torch and onnxruntime are imported by the first export.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headwaiter_export.errors import ExportError

if TYPE_CHECKING:
    from headwaiter_export.architectures import Options
    from headwaiter_export.exporting import export_checkpoint
    from headwaiter_export.tensors.module import export_module

__all__ = ["ExportError", "Options", "export_checkpoint", "export_module"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (whatever the name stands for)
    if name == "Options":
        from headwaiter_export.architectures import Options  # noqa: PLC0415 (lazy on purpose)

        return Options
    if name == "export_checkpoint":
        from headwaiter_export.exporting import export_checkpoint  # noqa: PLC0415 (lazy on purpose)

        return export_checkpoint
    if name == "export_module":
        from headwaiter_export.tensors.module import export_module  # noqa: PLC0415 (lazy on purpose)

        return export_module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
