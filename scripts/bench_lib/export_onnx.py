# SPDX-License-Identifier: Apache-2.0
"""Export a BERT to ONNX: as it is, fused, and fused with int8 weights.

    python -m bench_lib.export_onnx MODEL_FOLDER OUT_FOLDER

Run in onnxruntime's venv; imports nothing else of this package.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from torch import nn
from transformers import AutoModel

__all__: list[str] = []

PLAIN, FUSED, INT8 = "model.onnx", "fused.onnx", "int8.onnx"
INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
OUTPUT = "last_hidden_state"
LAYER_FUSIONS = {"Attention": 1, "SkipLayerNormalization": 2, "BiasGelu": 1}
"""Operators of the fused graph, a layer of the model."""


class TokenVectors(nn.Module):
    """A transformer that takes and gives plain tensors."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, token_types: torch.Tensor
    ) -> torch.Tensor:
        output = self.transformer(input_ids=ids, attention_mask=mask, token_type_ids=token_types)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden


def main(model_folder: str, out_folder: str) -> None:
    out = Path(out_folder)
    model = AutoModel.from_pretrained(model_folder, attn_implementation="eager").eval()
    model.pooler = None
    ids = torch.randint(1000, 2000, (2, 9))
    ones = torch.ones_like(ids)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Not torch.export's graph: onnxruntime's optimizer does not find the attention in that.
        torch.onnx.export(
            TokenVectors(model),
            (ids, ones, torch.zeros_like(ids)),
            str(out / PLAIN),
            dynamo=False,
            opset_version=17,
            input_names=INPUTS,
            output_names=[OUTPUT],
            dynamic_axes={name: {0: "texts", 1: "tokens"} for name in (*INPUTS, OUTPUT)},
        )
    config = model.config
    fused = optimizer.optimize_model(
        str(out / PLAIN),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        opt_level=0,
    )
    found = fused.get_fused_operator_statistics()
    for name, count in LAYER_FUSIONS.items():
        if found[name] != count * config.num_hidden_layers:
            raise RuntimeError(f"{found[name]} of {name} in the fused graph: {found}")
    fused.save_model_to_file(str(out / FUSED))
    quantize_dynamic(
        str(out / FUSED),
        str(out / INT8),
        per_channel=True,
        weight_type=QuantType.QInt8,
        # It cannot infer types behind the fused operators.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
