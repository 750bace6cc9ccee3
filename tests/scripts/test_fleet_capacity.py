# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from capacity_lib.fleet import Machine, Model, make_models, make_requests, popularity
from capacity_lib.routing import at_home, homes
from capacity_lib.simulation import Arrival, Outcome, Simulation

MACHINE = Machine(weights_gib=1.0, host_gib=1.5, batch_seconds=0.01, front_seconds=0.001)
MODELS = [Model(335)] * 4
"""0.62 GiB each: one fits on the device, two in RAM."""


def run(*arrivals: Arrival, warm: tuple[int, ...] = (0,)) -> Outcome:
    return Simulation(MACHINE, MODELS).run(arrivals, warm)


def test_a_model_that_is_there_answers_after_front_and_batch() -> None:
    outcome = run((0.0, 0, 100))
    expected = 0.001 + 0.01 + MODELS[0].seconds(100, MACHINE)
    assert outcome.latencies == [pytest.approx(expected)]
    assert (outcome.hits, outcome.from_host, outcome.from_disk) == (1, 0, 0)


def test_requests_that_wait_together_share_a_batch() -> None:
    outcome = run(*[(0.0, 0, 100)] * 5)
    assert outcome.busy_seconds == pytest.approx(2 * 0.01 + MODELS[0].seconds(500, MACHINE))


@pytest.mark.parametrize(("warm", "moves"), [((0, 1), (1, 0)), ((0,), (0, 1))])
def test_an_absent_model_comes_from_where_it_is(
    warm: tuple[int, ...], moves: tuple[int, int]
) -> None:
    outcome = run((0.0, 1, 100), warm=warm)
    rate = MACHINE.copy_gib_s if moves[0] else MACHINE.disk_gib_s
    assert (outcome.from_host, outcome.from_disk) == moves
    assert outcome.hits == 0
    assert outcome.copy_seconds == pytest.approx(MODELS[1].gib / rate)
    assert outcome.latencies[0] > MODELS[1].gib / rate


def test_every_request_is_answered_however_the_models_change() -> None:
    requests = make_requests(popularity(4, 1.0), rate=200, seconds=5, mean_tokens=368)
    columns = requests.times.tolist(), requests.models.tolist(), requests.tokens.tolist()
    outcome = run(*zip(*columns, strict=True))
    assert len(outcome.latencies) == len(requests.times)
    assert outcome.tokens == requests.tokens.sum()
    assert min(outcome.latencies) > 0
    assert outcome.from_host + outcome.from_disk > 10


def test_each_model_has_a_home_and_popular_ones_have_several() -> None:
    models = make_models(100)
    demand = [3.0, *[0.01] * 99]
    places = homes(models, demand, Machine(), 10)
    assert len(places[0]) == 6
    assert {len(each) for each in places[1:]} == {1}
    requests = make_requests(popularity(100, 1.0), rate=1000, seconds=1, mean_tokens=10)
    routed = at_home(requests, places)
    assert all(
        machine in places[model] for machine, model in zip(routed, requests.models, strict=True)
    )
    assert len(np.unique(routed[requests.models == 0])) == 6
