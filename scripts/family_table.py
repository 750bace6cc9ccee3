# SPDX-License-Identifier: Apache-2.0
"""Hold every model family against sentence-transformers, and write the README's table of it.

    python scripts/family_table.py > families.md

The models are those of the parity tests: tiny, of random weights, made on the spot, beside the
embedded one with its trained weights.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from sentence_transformers.sparse_encoder.modules import SpladePooling

from appliance.engine.sources import locate_model
from appliance.engine.types import FloatMatrix
from tests.parity.families import FAMILIES
from tests.parity.reference import REAL, cosines, ours, theirs, theirs_splade, warmed
from tests.parity.tiny import build, build_splade, build_static


def main() -> int:
    """Run the script."""
    print("| Family | Class | Runs | float32, largest error | bfloat16, least cosine |")
    print("| --- | --- | --- | ---: | ---: |")
    for name, family in FAMILIES.items():
        with tempfile.TemporaryDirectory() as folder:
            model = build(Path(folder), family)
            print(row(name, model, theirs(model)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model = build_splade(Path(folder), FAMILIES["bert"], SpladePooling("max"))
        print(row("bert, SPLADE", model, theirs_splade(model)))
    with tempfile.TemporaryDirectory() as folder:
        model = build_static(Path(folder))
        print(row("static embeddings", model, theirs(model)))
    real = locate_model(REAL, revision=None, token=None, cache=None)
    print(row("all-MiniLM-L6-v2, trained", real, theirs(real)))
    return 0


def row(name: str, model: Path, expected: FloatMatrix) -> str:
    """Embed the same texts here as there, in one mixed batch."""
    backend = warmed(model)
    error = abs(ours(backend) - expected).max()
    cosine = cosines(ours(warmed(model, "bfloat16")), expected).min()
    kind = type(backend.transformer.module).__name__
    way = "packed" if backend.transformer.packed else "padded"
    return f"| {name} | `{kind}` | {way} | {error:.1e} | {cosine:.4f} |"


if __name__ == "__main__":
    sys.exit(main())
