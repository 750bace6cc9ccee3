# SPDX-License-Identifier: Apache-2.0
"""Work out what a fleet of GPUs does for very many models, and write the tables of ops/capacity.md.

    python scripts/capacity.py > tables.md

A simulation, machine by machine: requests by Zipf's law, models of all sizes, weights that move
between device, RAM and disk by the appliance's own rules. Each constant is a flag; what the
defaults rest on is told in ops/capacity.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from capacity_lib.fleet import Machine, Model, make_models, make_requests, popularity
from capacity_lib.routing import anywhere, at_home, homes
from capacity_lib.simulation import Outcome, Simulation

HEAD = (
    "| machines | GiB each | Zipf | routed to | load | requests/s | M tokens/s | on the device"
    " | from RAM/s | from disk/s | one move, ms | device busy | front busy | p50, ms | p99, ms"
    " | $ per M tokens |"
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row.

    Attributes:
        exponent: Of Zipf's law.
        at_home: Whether a model's requests go to its own machines, rather than anywhere.
        load: Share of the fleet's time that the requests need, were batches free of overhead.
        machines: How many there are.
        weights_gib: Device memory of each for weights.
    """

    exponent: float = 1.0
    at_home: bool = True
    load: float = 0.25
    machines: int = 100
    weights_gib: float = 64.0


SCENARIOS = (
    *(Scenario(load=load) for load in (0.1, 0.25, 0.4)),
    *(Scenario(exponent=exponent) for exponent in (0.8, 1.2)),
    *(Scenario(weights_gib=gib) for gib in (32, 16)),
    *(Scenario(machines=machines) for machines in (20, 10, 5)),
    *(Scenario(at_home=False, load=load) for load in (0.01, 0.1)),
)


def simulate(
    scenario: Scenario, machine: Machine, models: Sequence[Model], options: argparse.Namespace
) -> str:
    """Run one scenario; its row of the table."""
    machine = replace(machine, weights_gib=scenario.weights_gib)
    shares = popularity(len(models), scenario.exponent)
    seconds = [model.seconds(options.tokens, machine) for model in models]
    rate = scenario.load * scenario.machines / float(np.dot(shares, seconds))
    requests = make_requests(shares, rate, options.seconds, options.tokens, options.seed)
    # What is short counts: the device's time, or that of the thread in front of it.
    needs = [max(each, machine.front_seconds) for each in seconds]
    demand = [rate * share * each for share, each in zip(shares, needs, strict=True)]
    places = homes(models, demand, machine, scenario.machines)
    routed = (
        at_home(requests, places, options.seed)
        if scenario.at_home
        else anywhere(requests, scenario.machines, options.seed)
    )
    outcomes = []
    for number in range(scenario.machines):
        mine = np.flatnonzero(routed == number)
        arrivals = list(
            zip(
                requests.times[mine].tolist(),
                requests.models[mine].tolist(),
                requests.tokens[mine].tolist(),
                strict=True,
            )
        )
        warm = [
            model for model in range(len(models)) if not scenario.at_home or number in places[model]
        ]
        outcomes.append(Simulation(machine, models).run(arrivals, warm))
    return row(scenario, machine, rate, outcomes, options)


def row(
    scenario: Scenario,
    machine: Machine,
    rate: float,
    outcomes: Sequence[Outcome],
    options: argparse.Namespace,
) -> str:
    """Sum up what became of all machines."""
    latencies = np.concatenate([outcome.latencies for outcome in outcomes]) * 1000
    # A fleet that falls behind goes on after the last request has come.
    seconds = max(options.seconds, *(outcome.ended for outcome in outcomes))
    tokens = sum(outcome.tokens for outcome in outcomes) / seconds
    from_host = sum(outcome.from_host for outcome in outcomes)
    from_disk = sum(outcome.from_disk for outcome in outcomes)
    copies = sum(outcome.copy_seconds for outcome in outcomes)
    hits = sum(outcome.hits for outcome in outcomes) / len(latencies)
    busy = sum(outcome.busy_seconds for outcome in outcomes) / seconds / scenario.machines
    front = len(latencies) * machine.front_seconds / seconds / scenario.machines
    price = scenario.machines * machine.price / (tokens * 3600 / 1e6)
    cells = (
        f"{scenario.machines}",
        f"{scenario.weights_gib:g}",
        f"{scenario.exponent:g}",
        "its own machines" if scenario.at_home else "any machine",
        f"{scenario.load:.0%}",
        f"{rate:,.0f}",
        f"{tokens / 1e6:.1f}",
        f"{hits:.2%}",
        f"{from_host / seconds:,.0f}",
        f"{from_disk / seconds:,.0f}",
        f"{copies / max(1, from_host + from_disk) * 1000:.0f}",
        f"{busy:.0%}",
        f"{front:.0%}",
        f"{np.percentile(latencies, 50):,.0f}",
        f"{np.percentile(latencies, 99):,.0f}",
        f"{price:.4f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--tokens", type=float, default=368, help="of a request, on average")
    parser.add_argument("--seconds", type=float, default=20, help="of requests")
    parser.add_argument("--seed", type=int, default=0)
    constants = [field for field in fields(Machine) if field.name != "weights_gib"]
    for field in constants:
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(flag, type=type(field.default), default=field.default)
    options = parser.parse_args()
    machine = Machine(**{field.name: getattr(options, field.name) for field in constants})
    models = make_models(options.models, options.seed)
    size = sum(model.gib for model in models)
    print(f"{options.models} models of {size:,.0f} GiB together.\n")
    print(HEAD, f"|{'---:|' * (HEAD.count('|') - 1)}", sep="\n")
    for scenario in SCENARIOS:
        print(simulate(scenario, machine, models, options), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
