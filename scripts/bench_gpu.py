# SPDX-License-Identifier: Apache-2.0
"""Measure forward passes on a GPU: tokens a second, and the share of the card's own GEMM rate.

    python scripts/bench_gpu.py --out-markdown gpu.md

The models have the shapes of real ones and random weights, so nothing is downloaded. Each is run
packed, padded in groups of similar length (what the server falls back to), and padded to the
longest text of the batch (what most servers do); texts are of 512 tokens, or of mixed lengths. The
yardstick is what the card itself does in one large bfloat16 matrix multiplication, measured in the
same run. Without a GPU a reduced form runs on the CPU, and says so: it shows that the script works,
and nothing about GPUs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from bench_lib.machine import machine_line
from torch import nn
from transformers import AutoModel, BertConfig, PretrainedConfig, Qwen3Config

from appliance.engine.attention import PACKED
from appliance.engine.jobs import Batch
from appliance.engine.pooling import pool_segments
from appliance.engine.staging import to_host
from appliance.engine.transformer import PackedTransformer
from appliance.engine.types import FloatMatrix

SHAPES: dict[str, PretrainedConfig] = {
    "MiniLM-L6": BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ),
    "bge-large": BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
    "Qwen3-Embedding-0.6B": Qwen3Config(
        vocab_size=151_669,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=32_768,
        pad_token_id=151_643,
    ),
}
LONGEST = 512
WAYS = ("packed", "padded in groups", "padded to the longest")


@dataclass(frozen=True)
class Effort:
    """How much is done."""

    layers: int | None
    batch_tokens: int
    batches: int
    rounds: int
    gemm_size: int


ON_GPU = Effort(layers=None, batch_tokens=16_384, batches=8, rounds=5, gemm_size=8192)
ON_CPU = Effort(layers=2, batch_tokens=1024, batches=1, rounds=3, gemm_size=1024)


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    shape: str
    texts: str
    way: str
    tokens_per_second: float
    share: float


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default=",".join(SHAPES), help="some of %(default)s")
    parser.add_argument("--out-markdown", type=Path)
    options = parser.parse_args()
    unknown = set(options.shapes.split(",")) - set(SHAPES)
    if unknown:
        parser.error(f"no shape {min(unknown)!r}; there are {', '.join(SHAPES)}")
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    effort = ON_GPU if has_gpu else ON_CPU
    with torch.inference_mode():
        peak = gemm_rate(device, effort)
        figures = [
            figure
            for shape in options.shapes.split(",")
            for figure in measure(shape, device, effort, peak)
        ]
    text = report(figures, peak, device, effort)
    print(text, end="")
    if options.out_markdown is not None:
        options.out_markdown.write_text(text)
    return 0


def gemm_rate(device: torch.device, effort: Effort) -> float:
    """FLOP/s of one large bfloat16 matrix multiplication."""
    size = effort.gemm_size
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = [timed(device, lambda: F.linear(left, right)) for _ in range(12)]
    return 2 * size**3 / statistics.median(seconds[2:])


def timed(device: torch.device, work: Callable[[], object]) -> float:
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(shape: str, device: torch.device, effort: Effort, peak: float) -> Iterator[Figure]:
    """Time one shape in every way, the ways interleaved."""
    model = build(SHAPES[shape], device, effort)
    flops = linear_flops(model.module)
    for texts, lengths in (("512 tokens", full()), ("mixed", mixed())):
        batches = [make_batch(lengths, effort) for _ in range(effort.batches)]
        tokens = sum(len(batch.input_ids) for batch in batches)
        runs = {way: runner(model, way, batches) for way in ways(texts)}
        for run in runs.values():
            run()
        seconds: dict[str, list[float]] = {way: [] for way in runs}
        for _ in range(effort.rounds):
            for way, run in runs.items():
                seconds[way].append(timed(device, run))
        for way, taken in seconds.items():
            rate = tokens / statistics.median(taken)
            yield Figure(shape, texts, way, rate, rate * flops / peak)


def build(config: PretrainedConfig, device: torch.device, effort: Effort) -> PackedTransformer:
    config = type(config)(**config.to_diff_dict())
    if effort.layers is not None:
        config.num_hidden_layers = effort.layers
        if hasattr(config, "layer_types"):
            config.layer_types = config.layer_types[: effort.layers]
    torch.manual_seed(0)
    auto: Any = AutoModel
    with device:
        module = auto.from_config(config, dtype=torch.bfloat16)
    module.config.use_cache = False
    module.eval().requires_grad_(False)
    model = PackedTransformer(module, config.vocab_size, LONGEST)
    model.prove(effort.batch_tokens)
    if not model.packed:
        raise SystemExit(f"{type(module).__name__} did not pass its proof on {device}")
    return model


def linear_flops(module: nn.Module) -> float:
    """FLOP that the linear layers take for each token."""
    pooler = getattr(module, "pooler", None)
    skipped = set() if pooler is None else set(pooler.modules())
    layers: list[Any] = [part for part in module.modules() if hasattr(part, "in_features")]
    return float(sum(2 * p.in_features * p.out_features for p in layers if p not in skipped))


def full() -> Iterator[int]:
    while True:
        yield LONGEST


def mixed() -> Iterator[int]:
    """Lognormal lengths, as texts have: 3 to 512 tokens, some 60 on average."""
    generator = np.random.default_rng(0)
    while True:
        yield int(np.clip(np.exp(generator.normal(3.6, 1.0)), 3, LONGEST))


def make_batch(lengths: Iterator[int], effort: Effort) -> Batch:
    generator = np.random.default_rng(1)
    chosen: list[int] = []
    while (room := effort.batch_tokens - sum(chosen)) > 0:
        chosen += [min(length, room) for length in islice(lengths, 1)]
    return Batch.pack([generator.integers(5, 20_000, length) for length in sorted(chosen)])


def ways(texts: str) -> tuple[str, ...]:
    # Texts of one length need no padding, whichever way it would be done.
    return WAYS if texts == "mixed" else WAYS[:2]


def runner(model: PackedTransformer, way: str, batches: list[Batch]) -> Callable[[], None]:
    """Embed batches, each begun before the one before it is waited for, as the server does."""
    packed = way == "packed"
    embed = padded_to_the_longest if way == WAYS[2] else as_the_server_does

    def run() -> None:
        module: Any = model.module
        module.set_attn_implementation(PACKED if packed else "sdpa")
        model.packed = packed
        pending: Callable[[], FloatMatrix] | None = None
        for batch in batches:
            begun = to_host(embed(model, batch))
            if pending is not None:
                pending()
            pending = begun
        if pending is not None:
            pending()

    return run


def as_the_server_does(model: PackedTransformer, batch: Batch) -> torch.Tensor:
    hidden, cu_seqlens = model.hidden(batch)
    return pool_segments(hidden, cu_seqlens, ("mean",))


def padded_to_the_longest(model: PackedTransformer, batch: Batch) -> torch.Tensor:
    ids = np.zeros((len(batch), batch.lengths.max()), dtype=np.int64)
    mask = np.arange(ids.shape[1]) < batch.lengths[:, None]
    ids[mask] = batch.input_ids
    seen = torch.from_numpy(mask).to(model.device)
    hidden = model.module(
        input_ids=torch.from_numpy(ids).to(model.device), attention_mask=seen.long()
    ).last_hidden_state
    weights = seen.unsqueeze(2).float()
    pooled: torch.Tensor = (hidden * weights).sum(1) / weights.sum(1)
    return pooled


def report(figures: list[Figure], peak: float, device: torch.device, effort: Effort) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    lines = [
        "| Shape | Texts | Way | tokens/s | share of the GEMM rate | packed is |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    packed = {(f.shape, f.texts): f.tokens_per_second for f in figures if f.way == "packed"}
    for f in figures:
        ratio = packed[f.shape, f.texts] / f.tokens_per_second
        times = "" if f.way == "packed" else f"{ratio:.2f}x"
        lines.append(
            f"| {f.shape} | {f.texts} | {f.way} | {f.tokens_per_second:,.0f} | {f.share:.2f}"
            f" | {times} |"
        )
    lines += [
        "",
        (
            f"{name}; bfloat16, {effort.batch_tokens} tokens a batch, {effort.batches} batches a"
            f" round, medians of {effort.rounds} rounds; GEMM rate {peak / 1e12:.1f} TFLOP/s."
        ),
        machine_line({"torch": torch.__version__}),
    ]
    if device.type != "cuda":
        lines.append(
            f"**There is no GPU here: a reduced form ran on the CPU, with {effort.layers} layers a"
            " model. It says nothing about GPUs.**"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
