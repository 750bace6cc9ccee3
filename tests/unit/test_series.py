# SPDX-License-Identifier: Apache-2.0
"""The rings of points, and the counts of latencies in them."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.series.histogram import ACCURACY, BUCKETS, Counts, bucket_of, percentiles
from appliance.series.history import FINE_STEP, HOUR, LONGEST_WINDOW, MINUTE, Clock, History

START = 1_800_000_000.0
"""A whole minute."""


class Hands:
    """Both clocks, set by hand."""

    def __init__(self) -> None:
        self.monotonic = 77.0
        self.wall = START

    def pass_(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds

    def clock(self) -> Clock:
        return Clock(lambda: self.monotonic, lambda: self.wall)


def counted(*milliseconds: float) -> Counts:
    counts = np.zeros(BUCKETS, dtype=np.uint32)
    for value in milliseconds:
        counts[bucket_of(value)] += 1
    return counts


def values(history: History, seconds: int, column: str) -> list[float | None]:
    means = history.read(seconds).points.means[:, history.place(column)]
    return [None if math.isnan(mean) else round(float(mean), 9) for mean in means]


def nearest_rank(numbers: list[float], share: float) -> float:
    return sorted(numbers)[max(1, math.ceil(share * len(numbers))) - 1]


@given(st.lists(st.floats(0.1, 600_000), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_percentile_is_as_exact_as_it_says(latencies: list[float], share: float) -> None:
    (found,) = percentiles(counted(*latencies)[None], (share,))
    exact = nearest_rank(latencies, share)
    assert abs(found[0] - exact) <= exact * (ACCURACY + 1e-9)


def test_latencies_beyond_the_buckets_are_counted_in_the_last() -> None:
    assert bucket_of(0.0) == bucket_of(-1.0) == bucket_of(math.nan) == 0
    assert bucket_of(1e12) == bucket_of(math.inf) == BUCKETS - 1
    assert np.isnan(percentiles(counted()[None], (0.5,))[0][0])


Sample = tuple[float, float | None, list[float]]


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1000),
            st.none() | st.floats(0, 1e9),
            st.lists(st.floats(0.1, 1e5), max_size=5),
        ),
        min_size=24,
        max_size=60,
    )
)
@settings(max_examples=40, deadline=None)
def test_minutes_are_what_a_plain_computation_over_all_samples_gives(samples: list[Sample]) -> None:
    hands = Hands()
    history = History(["rate", "level"], hands.clock())
    for number, (grown, level, latencies) in enumerate(samples):
        hands.pass_(FINE_STEP if number else FINE_STEP + 0.25)  # always a bit late
        levels = {} if level is None else {"level": level}
        history.add({"rate": grown}, levels, counted(*latencies))
    minutes = len(samples) // 12
    found = history.read(LONGEST_WINDOW)
    p50, p99 = percentiles(found.points.latencies[-minutes:], (0.5, 0.99))
    for minute in range(minutes):
        part = samples[minute * 12 : minute * 12 + 12]
        # The first sample took 0.25 s more.
        seconds = [FINE_STEP + 0.25 * (minute == 0 and n == 0) for n in range(12)]
        mean = found.points.means[minute - minutes]
        assert mean[0] == pytest.approx(sum(grown for grown, _, _ in part) / sum(seconds))
        seen = [
            (s, level) for s, (_, level, _) in zip(seconds, part, strict=True) if level is not None
        ]
        if seen:
            weighted = sum(s * level for s, level in seen) / sum(s for s, _ in seen)
            assert mean[1] == pytest.approx(weighted)
        else:
            assert math.isnan(mean[1])
        latencies = [value for _, _, more in part for value in more]
        for percentile, share in ((p50, 0.5), (p99, 0.99)):
            if latencies:
                exact = nearest_rank(latencies, share)
                assert percentile[minute] == pytest.approx(exact, rel=ACCURACY + 1e-9)
            else:
                assert math.isnan(percentile[minute])
    assert found.times[-1] == START + minutes * MINUTE


def test_a_late_sample_is_spread_over_the_points_that_it_covers() -> None:
    hands = Hands()
    history = History(["rate", "level"], hands.clock())
    hands.pass_(20)
    history.add({"rate": 40.0}, {"level": 3.0}, counted(7.0))
    assert values(history, 60, "rate")[-5:] == [None, 2.0, 2.0, 2.0, 2.0]
    assert values(history, 60, "level")[-5:] == [None, 3.0, 3.0, 3.0, 3.0]
    assert history.read(60).points.latencies.sum(axis=1).tolist()[-4:] == [0, 0, 0, 1]


def test_after_a_long_pause_there_is_a_gap() -> None:
    hands = Hands()
    history = History(["rate"], hands.clock())
    hands.pass_(5)
    history.add({"rate": 5.0}, {}, counted())
    hands.pass_(600)
    history.add({"rate": 6050.0}, {}, counted())
    found = values(history, 900, "rate")
    assert found[-1] == pytest.approx(6050 / 600)
    assert [value for value in found[:-1] if value is not None] == [1.0]
    hands.pass_(600)
    assert values(history, 900, "rate")[-3:] == [None, None, None], "nothing has come since"


def test_a_sample_that_comes_early_makes_no_point_of_its_own() -> None:
    hands = Hands()
    history = History(["rate"], hands.clock())
    hands.pass_(4.9)
    history.add({"rate": 4.9}, {}, counted())
    history.add({"rate": 0.0}, {}, counted())
    assert set(values(history, 60, "rate")) == {None}
    hands.pass_(0.1)
    history.add({"rate": 0.1}, {}, counted())
    assert values(history, 60, "rate")[-2:] == [None, 1.0]


@pytest.mark.parametrize("jump", [-86_400.0, -61.0, 3600.0, 10 * 86_400.0])
def test_a_clock_that_is_set_anew_breaks_nothing(jump: float) -> None:
    hands = Hands()
    history = History(["rate"], hands.clock())
    for number in range(24):
        hands.pass_(FINE_STEP)
        if number == 11:
            hands.wall += jump
        history.add({"rate": 5.0 * number}, {}, counted())
    found = history.read(120)
    assert values(history, 120, "rate") == [float(number) for number in range(24)]
    assert found.times == sorted(found.times)
    assert abs(found.times[-1] - hands.wall) <= FINE_STEP
    assert len(set(np.diff(found.times))) == 1


def test_small_corrections_of_the_clock_move_no_point() -> None:
    hands = Hands()
    history = History(["rate"], hands.clock())
    hands.pass_(5)
    history.add({"rate": 1.0}, {}, counted())
    before = history.read(60).times
    hands.wall += 0.9
    assert history.read(60).times == before


def test_an_hour_is_kept_finely_and_a_day_by_the_minute() -> None:
    hands = Hands()
    history = History(["rate"], hands.clock())
    for _ in range(2 * HOUR // FINE_STEP):
        hands.pass_(FINE_STEP)
        history.add({"rate": 5.0}, {}, counted())
    assert values(history, HOUR, "rate") == [1.0] * 720
    day = values(history, LONGEST_WINDOW, "rate")
    assert len(day) == 1440
    assert day[-121:] == [None] + [1.0] * 120


def test_the_memory_is_the_same_from_the_first_point_on() -> None:
    hands = Hands()
    history = History(["rate", "level"], hands.clock())

    def run(samples: int) -> None:
        for _ in range(samples):
            hands.pass_(FINE_STEP)
            history.add({"rate": 5.0}, {"level": 1.0}, counted(3.0))

    size = history.nbytes
    run(800)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    run(1500)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert history.nbytes == size < 3_500_000
    assert after - before < 20_000


def test_what_is_not_written_stays_bounded() -> None:
    hands = Hands()
    history = History(["rate"], hands.clock())
    for _ in range(3 * HOUR // FINE_STEP):
        hands.pass_(FINE_STEP)
        history.add({"rate": 5.0}, {}, counted())
    points = history.take_unwritten()
    assert len(points) == HOUR // FINE_STEP + 3 * HOUR // MINUTE
    assert history.take_unwritten() == []
    history.give_back(points)
    assert history.take_unwritten() == points


def test_what_was_kept_comes_back_with_the_gap_between() -> None:
    hands = Hands()
    before = History(["rate", "gone"], hands.clock())
    for _ in range(18):
        hands.pass_(FINE_STEP)
        before.add({"rate": 10.0, "gone": 1.0}, {}, counted(5.0))
    rows = [(point.step, point.begins, point.row) for point in before.take_unwritten()]
    hands.pass_(30)
    hands.monotonic = 3.0  # the machine has started anew
    history = History(["rate", "new"], hands.clock())
    for _ in range(12):
        hands.pass_(FINE_STEP)
        history.add({"rate": 20.0, "new": 1.0}, {}, counted())
    history.restore(rows)
    assert values(history, 300, "rate")[-36:] == [2.0] * 18 + [None] * 6 + [4.0] * 12
    # The second minute has 30 s of the first process, the third 60 s of the second one.
    assert values(history, LONGEST_WINDOW, "rate")[-3:] == [2.0, 2.0, 4.0]
    assert values(history, 300, "new")[-13:] == [None] + [1 / 5] * 12
    latencies = history.read(LONGEST_WINDOW).points.latencies.sum(axis=1)
    assert latencies.tolist()[-3:] == [12, 6, 0]


def test_rows_of_the_future_and_of_the_day_before_are_left_out() -> None:
    hands = Hands()
    before = History(["rate"], hands.clock())
    hands.pass_(FINE_STEP)
    before.add({"rate": 1.0}, {}, counted())
    rows = [(point.step, point.begins, point.row) for point in before.take_unwritten()]
    for jump in (-HOUR, 2 * LONGEST_WINDOW):
        hands.wall = START + jump
        history = History(["rate"], hands.clock())
        history.restore(rows)
        assert set(values(history, LONGEST_WINDOW, "rate")) == {None}
