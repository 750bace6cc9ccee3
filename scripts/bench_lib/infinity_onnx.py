# SPDX-License-Identifier: Apache-2.0
"""Start infinity with its ONNX engine under a newer torch than that was written for.

    python -m bench_lib.infinity_onnx v2 ...

Run in infinity's venv; imports nothing else of this package. `optimum` imports its exporter, which
asks for internals of `torch.onnx` that have moved. No ONNX file is exported here, and none of them
is called: nothing measured depends on it.
"""

from __future__ import annotations

import sys

from torch.onnx._internal.torchscript_exporter import symbolic_opset14

sys.modules["torch.onnx.symbolic_opset14"] = symbolic_opset14

if __name__ == "__main__":
    from infinity_emb.cli import cli

    cli()
