# SPDX-License-Identifier: Apache-2.0
"""Measure what it costs to have more models than fit.

    python scripts/bench_residency.py return

How long the embedded model takes from the disk to its first answer: its weights are put away,
brought back, and one text is embedded. The yardstick, measured in turns with it in the same
process, is what no server can do without: reading the model's file once, by plain `read()` from
the page cache, and one forward pass of the same text.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from bench_lib.machine import machine_line

from appliance.engine.backend import Parking
from appliance.engine.cores import share_cores
from appliance.engine.jobs import Batch
from appliance.engine.loading import load_model
from appliance.engine.model import TorchBackend
from appliance.engine.sources import locate_model
from appliance.settings import ModelSettings, Settings

MODEL = "embedded:all-MiniLM-L6-v2"
SENTENCE = "How do I return a parcel that arrived damaged?"
TEXTS = {"one sentence": SENTENCE, "256 tokens": " ".join([SENTENCE] * 40)}
WANTED = 2.0
"""Most times the yardstick that a return may take."""


@dataclass(frozen=True)
class Return:
    """Median milliseconds of one kind of return."""

    dtype: str
    text: str
    read: float
    forward: float
    park: float
    restore: float
    first_answer: float

    @property
    def share(self) -> float:
        """The whole way back, in times of the yardstick."""
        return (self.restore + self.first_answer) / (self.read + self.forward)

    @property
    def row(self) -> str:
        whole, yardstick = self.restore + self.first_answer, self.read + self.forward
        parts = (self.read, self.forward, yardstick, self.restore, self.first_answer, whole)
        cells = " | ".join(f"{part:.1f}" for part in parts)
        return f"| {self.dtype} | {self.text} | {cells} | {self.share:.2f} | {self.park:.1f} |"


HEADER = """\
| dtype | text | read ms | forward ms | yardstick ms | restore ms | first answer ms | return ms \
| of the yardstick | park ms |
|---|---|---|---|---|---|---|---|---|---|"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the part that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parts = parser.add_subparsers(dest="part", required=True)
    back = parts.add_parser("return", help="from the disk to the first answer")
    back.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args(arguments)
    torch.set_num_threads(share_cores()[1])  # as the server's workers and movers do
    about = machine_line({"torch": torch.__version__})
    print(f"{about}; threads {torch.get_num_threads()}, medians of {options.rounds} rounds\n")
    print(HEADER)
    returns = [
        measure_return(dtype, name, text, options.rounds)
        for dtype in ("float32", "bfloat16")
        for name, text in TEXTS.items()
    ]
    return int(any(one.share > WANTED for one in returns if one.dtype == "float32"))


def measure_return(dtype: str, name: str, text: str, rounds: int) -> Return:
    """Measure one kind of return, in turns with its yardstick, and print its row."""
    folder = locate_model(MODEL, revision=None, token=None, cache=None)
    settings = ModelSettings.model_validate({"model": MODEL, "device_map": "cpu", "dtype": dtype})
    (backend,) = load_model(Settings(), settings)
    backend.warm_up(1024)
    batch = Batch.pack([ids[:256] for ids in backend.tokenizer.encode([text])])
    with tempfile.TemporaryDirectory() as swap:
        parking = Parking("disk", Path(swap))
        backend.park(parking)  # the first time, files are compared and written
        backend.restore()
        steps = [
            *yardstick(folder / "model.safetensors", backend, batch),
            lambda: backend.park(parking),
            backend.restore,
            lambda: backend.forward(batch),
        ]
        times = [[milliseconds(step) for step in steps] for _ in range(rounds)]
        backend.close()
    read, forward, park, restore, answer = map(statistics.median, zip(*times, strict=True))
    result = Return(dtype, name, read, forward, park, restore, answer)
    print(result.row, flush=True)
    return result


def yardstick(file: Path, backend: TorchBackend, batch: Batch) -> list[Callable[[], object]]:
    """What a return cannot do without: reading the file, and a forward pass."""
    return [file.read_bytes, lambda: backend.forward(batch)]


def milliseconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    sys.exit(main())
