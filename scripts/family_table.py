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

from appliance.engine.sources import locate_model
from tests.parity.test_families import REAL, cosines, ours, theirs, warmed
from tests.parity.tiny import FAMILIES, build


def main() -> int:
    """Run the script."""
    print("| Family | Class | Runs | float32, largest error | bfloat16, least cosine |")
    print("| --- | --- | --- | ---: | ---: |")
    for name, family in FAMILIES.items():
        with tempfile.TemporaryDirectory() as folder:
            print(row(name, build(Path(folder), family)), flush=True)
    real = locate_model(REAL, revision=None, token=None, cache=None)
    print(row("all-MiniLM-L6-v2, trained", real))
    return 0


def row(name: str, model: Path) -> str:
    """Embed the same texts in both, in one mixed batch."""
    expected = theirs(model)
    backend = warmed(model)
    error = abs(ours(backend) - expected).max()
    cosine = cosines(ours(warmed(model, "bfloat16")), expected).min()
    kind = type(backend._transformer).__name__
    way = "packed" if backend.packed else "padded"
    return f"| {name} | `{kind}` | {way} | {error:.1e} | {cosine:.4f} |"


if __name__ == "__main__":
    sys.exit(main())
