# SPDX-License-Identifier: Apache-2.0
"""The model as ONNX files, made by `export_onnx.py` in onnxruntime's venv."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench_lib.processes import SCRIPTS
from bench_lib.venvs import made_once, peer_python, pins, run

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ONNXRUNTIME", "OnnxFiles", "export_onnx"]

ONNXRUNTIME = "onnxruntime"
EXPORT = SCRIPTS / "bench_lib" / "export_onnx.py"


@dataclass(frozen=True)
class OnnxFiles:
    """The model folder with `model.onnx` in it, and beside it the files for onnxruntime alone."""

    folder: Path

    @property
    def model_folder(self) -> Path:
        """In the layout that infinity takes: one ONNX file in the model's own folder."""
        return self.folder / "model"

    @property
    def fused(self) -> Path:
        return self.folder / "fused.onnx"

    @property
    def int8(self) -> Path:
        return self.folder / "int8.onnx"


def export_onnx(state: Path, model_folder: Path) -> OnnxFiles:
    """Export the model, unless an earlier run did."""
    python = peer_python(state, ONNXRUNTIME)

    def make(folder: Path) -> None:
        shutil.copytree(model_folder, folder / "model")
        script = "bench_lib.export_onnx"
        run(str(python), "-m", script, str(model_folder), str(folder), PYTHONPATH=str(SCRIPTS))
        (folder / "model.onnx").rename(folder / "model" / "model.onnx")

    stamp = f"{pins(ONNXRUNTIME)}{EXPORT.read_text()}{model_folder}\n"
    return OnnxFiles(made_once(state / "onnx", stamp, make))
