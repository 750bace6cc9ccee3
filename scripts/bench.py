# SPDX-License-Identifier: Apache-2.0
"""Measure this server side by side with its peers, on the CPU.

    python scripts/bench.py --out-markdown bench.md --out-plot bench.png

Makes what each peer needs in `.bench/` (its own venv; for llama.cpp a build, which takes minutes),
starts all of them, then measures them in interleaved rounds, one at a time. The yardstick is the
GEMM floor, the time of the model's linear layers alone. A peer that cannot be had is left out and
the report says why. Ends with 1 where vectors or token counts are wrong. Takes some 25 minutes on
two cores. The peers' pins are for Python 3.11 and 3.12.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import ExitStack

from bench_lib.lineup import Lineup
from bench_lib.load import make_load
from bench_lib.machine import machine_line
from bench_lib.options import parse
from bench_lib.plan import measure
from bench_lib.plot import write_plot
from bench_lib.report import as_json, as_markdown, setup_lines


def main() -> int:
    options = parse((__doc__ or "").partition("\n")[0])
    # The children have sessions of their own: without this they would outlive a terminated bench.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sizes = options.sizes
    load = make_load(options.model_folder, max(sizes.many_texts, sizes.stream_texts), options.seed)
    with ExitStack() as stack:
        lineup = Lineup(options, stack)
        lineup.enter_all()
        results = measure(options, load, lineup.bare, lineup.oracle, lineup.systems)
    machine = machine_line(lineup.versions)
    setup = setup_lines(options, load.first(sizes.texts), lineup.left_out)
    if options.out_json is not None:
        options.out_json.write_text(json.dumps(as_json(results, setup, machine), indent=1) + "\n")
    markdown = as_markdown(results, setup, machine)
    print(markdown, end="")
    if options.out_markdown is not None:
        options.out_markdown.write_text(markdown)
    if options.out_plot is not None:
        write_plot(results, options.out_plot)
    return 1 if results.faults else 0


if __name__ == "__main__":
    sys.exit(main())
