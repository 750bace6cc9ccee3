# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.batcher import FairQueue, Piece, length_buckets
from appliance.engine.budget import BatchBudget
from appliance.engine.jobs import Job
from appliance.engine.types import PRIORITIES, Priority

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=12)
JOBS = st.lists(LENGTHS, min_size=1, max_size=8)
QUANTUM = st.integers(1, 80)
BUDGET = st.integers(1, 100)
MAX_TEXTS = st.none() | st.integers(1, 5)


def job(*lengths: int) -> Job:
    return Job([np.zeros(length, dtype=np.int64) for length in lengths], lambda _: None)


def filled(quantum: int, jobs: Sequence[Job]) -> FairQueue:
    queue = FairQueue(quantum)
    for each in jobs:
        queue.add(each)
    return queue


def batches(queue: FairQueue, budget: int, max_texts: int | None = None) -> list[list[Piece]]:
    """Everything that waits, as a device would take it."""
    taken: list[list[Piece]] = []
    while batch := queue.take(budget, max_texts):
        taken.append(batch)
    return taken


def order(batch: Sequence[Piece]) -> list[tuple[Job, int]]:
    return [(piece.job, piece.index) for piece in batch]


@given(JOBS, QUANTUM, BUDGET, MAX_TEXTS)
def test_every_text_is_served_just_once(
    lengths: list[list[int]], quantum: int, budget: int, max_texts: int | None
) -> None:
    jobs = [job(*each) for each in lengths]
    taken = [p for batch in batches(filled(quantum, jobs), budget, max_texts) for p in batch]
    served = sorted((jobs.index(piece.job), piece.index) for piece in taken)
    assert served == [(n, index) for n, each in enumerate(lengths) for index in range(len(each))]


@given(JOBS, QUANTUM, BUDGET, MAX_TEXTS)
def test_a_batch_keeps_its_budget_unless_one_text_alone_exceeds_it(
    lengths: list[list[int]], quantum: int, budget: int, max_texts: int | None
) -> None:
    for batch in batches(filled(quantum, [job(*each) for each in lengths]), budget, max_texts):
        assert sum(piece.length for piece in batch) <= budget or len(batch) == 1
        assert max_texts is None or len(batch) <= max_texts


@given(JOBS, QUANTUM, BUDGET)
def test_a_batch_leaves_no_room_for_the_text_that_is_next(
    lengths: list[list[int]], quantum: int, budget: int
) -> None:
    taken = batches(filled(quantum, [job(*each) for each in lengths]), budget)
    for batch, following in pairwise(taken):
        assert sum(piece.length for piece in batch) + following[0].length > budget


@given(JOBS, QUANTUM, BUDGET)
def test_a_jobs_texts_are_served_in_its_own_order(
    lengths: list[list[int]], quantum: int, budget: int
) -> None:
    indices: dict[int, list[int]] = defaultdict(list)
    for batch in batches(filled(quantum, [job(*each) for each in lengths]), budget):
        for piece in batch:
            indices[id(piece.job)].append(piece.index)
    assert all(each == list(range(len(each))) for each in indices.values())


@given(JOBS, QUANTUM, BUDGET, st.data())
def test_tokens_is_the_sum_of_what_waits(
    lengths: list[list[int]], quantum: int, budget: int, data: st.DataObject
) -> None:
    queue = FairQueue(quantum)
    waiting: dict[Job, list[int]] = {}
    for each in lengths:
        added = job(*each)
        queue.add(added)
        waiting[added] = list(each)
        if data.draw(st.booleans()):
            for piece in queue.take(budget):
                waiting[piece.job].remove(piece.length)
        if data.draw(st.booleans()):
            dropped = data.draw(st.sampled_from(list(waiting)))
            queue.discard(dropped)
            waiting[dropped] = []
        assert queue.tokens == sum(map(sum, waiting.values()))
        assert len(queue) == sum(bool(left) for left in waiting.values())


@given(JOBS, QUANTUM, BUDGET, st.data())
def test_discard_takes_out_what_is_left_of_one_job_and_nothing_else(
    lengths: list[list[int]], quantum: int, budget: int, data: st.DataObject
) -> None:
    jobs = [job(*each) for each in lengths]
    dropped = data.draw(st.sampled_from(jobs))
    queue = filled(quantum, jobs)
    before = [piece for _ in range(data.draw(st.integers(0, 3))) for piece in queue.take(budget)]
    queue.discard(dropped)
    after = [piece for batch in batches(queue, budget) for piece in batch]
    assert dropped not in [piece.job for piece in after]
    others = [(jobs.index(j), i) for j, i in order([*before, *after]) if j is not dropped]
    assert sorted(others) == [
        (number, index)
        for number, each in enumerate(lengths)
        for index in range(len(each))
        if jobs[number] is not dropped
    ]


def test_discard_of_a_job_that_does_not_wait_changes_nothing() -> None:
    waiting = job(3)
    queue = filled(10, [waiting])
    queue.discard(job(3))
    assert queue.tokens == 3
    assert order(queue.take(10)) == [(waiting, 0)]


def test_take_from_an_empty_queue_gives_nothing() -> None:
    assert FairQueue(10).take(10) == []


@given(st.integers(0, 40), st.integers(1, 60), st.integers(64, 256), st.integers(64, 256))
def test_a_lone_text_waits_at_most_one_quantum_and_a_batch_of_a_long_job(
    batches_before: int, length: int, quantum: int, budget: int
) -> None:
    long_job, lone_job = job(*[30] * 2048), job(length)
    queue = filled(quantum, [long_job])
    for _ in range(batches_before):
        queue.take(budget)
    queue.add(lone_job)
    waited = 0
    for batch in batches(queue, budget):
        if lone_job in [piece.job for piece in batch]:
            break
        waited += sum(piece.length for piece in batch)
    assert waited <= quantum + budget


@given(st.integers(1, 16), st.integers(0, 40), st.integers(1, 60))
def test_a_lone_text_waits_little_behind_many_long_jobs(
    competitors: int, batches_before: int, length: int
) -> None:
    size = 256
    lone_job = job(length)
    queue = filled(size, [job(*[30] * 400) for _ in range(competitors)])
    for _ in range(batches_before):
        queue.take(size)
    queue.add(lone_job)
    waited = 0
    for batch in batches(queue, size):
        if lone_job in [piece.job for piece in batch]:
            break
        waited += sum(piece.length for piece in batch)
    even_share = length * (competitors + 1)
    assert waited <= even_share + 2 * size


@given(st.integers(1, 6), st.integers(1, 200), st.integers(10, 60))
def test_long_jobs_share_the_device_evenly(jobs: int, batches_taken: int, budget: int) -> None:
    quantum = 60
    competitors = [job(*[10] * 2048) for _ in range(jobs)]
    queue = filled(quantum, competitors)
    served = dict.fromkeys(competitors, 0)
    for _ in range(batches_taken):
        for piece in queue.take(budget):
            served[piece.job] += piece.length
    assert max(served.values()) - min(served.values()) <= quantum


@given(st.integers(0, 100), st.integers(1, 100), st.integers(10, 60))
def test_a_long_job_that_comes_later_does_not_make_up_for_what_it_missed(
    batches_before: int, batches_after: int, budget: int
) -> None:
    first, second = job(*[10] * 2048), job(*[10] * 2048)
    queue = filled(60, [first])
    for _ in range(batches_before):
        queue.take(budget)
    queue.add(second)
    taken = [piece.job for _ in range(batches_after) for piece in queue.take(budget)]
    assert abs(taken.count(first) - taken.count(second)) * 10 <= 60


@given(st.integers(1, 60), st.integers(1, 20), st.integers(60, 100), BUDGET)
def test_jobs_of_one_size_are_served_as_they_came(
    length: int, count: int, quantum: int, budget: int
) -> None:
    jobs = [job(length) for _ in range(count)]
    taken = [piece.job for batch in batches(filled(quantum, jobs), budget) for piece in batch]
    assert taken == jobs


@given(st.integers(1, 30), st.integers(1, 30))
def test_jobs_that_came_later_do_not_overtake_earlier_ones_of_their_size(
    before: int, after: int
) -> None:
    first, second = [job(5) for _ in range(before)], [job(5) for _ in range(after)]
    queue = filled(5, first)
    taken = [piece.job for piece in queue.take(10)]
    for each in second:
        queue.add(each)
    taken += [piece.job for batch in batches(queue, 10) for piece in batch]
    assert taken == first + second


@given(st.integers(1, 40), st.integers(1, 100), st.integers(100, 300), st.integers(100, 300))
def test_a_long_job_keeps_its_share_while_short_ones_keep_coming(
    clients: int, length: int, quantum: int, budget: int
) -> None:
    long_job = job(*[30] * 2048)
    queue = filled(quantum, [long_job, *(job(length) for _ in range(clients))])
    served = of_the_long_one = 0
    for _ in range(200):
        for piece in queue.take(budget):
            served += piece.length
            if piece.job is long_job:
                of_the_long_one += piece.length
            else:
                queue.add(job(length))  # each client asks again as soon as it is answered
        assert of_the_long_one >= served / (clients + 1) - quantum - budget


BUCKET_LENGTHS = st.lists(st.integers(1, 500), max_size=40)
WASTE = st.floats(0, 0.9)


@given(BUCKET_LENGTHS, st.integers(1, 2000), WASTE)
def test_buckets_hold_each_text_once(lengths: list[int], max_tokens: int, waste: float) -> None:
    groups = list(length_buckets(lengths, max_tokens, waste))
    assert sorted(position for group in groups for position in group) == list(range(len(lengths)))


@given(BUCKET_LENGTHS, st.integers(1, 2000), WASTE)
def test_a_bucket_wastes_no_more_than_allowed(
    lengths: list[int], max_tokens: int, waste: float
) -> None:
    for group in length_buckets(lengths, max_tokens, waste):
        real = sum(lengths[position] for position in group)
        padded = lengths[group[0]] * len(group)
        assert padded - real <= waste * padded + 1e-9 * padded


@given(BUCKET_LENGTHS, st.integers(1, 2000), WASTE)
def test_a_padded_bucket_keeps_its_budget_unless_one_text_alone_exceeds_it(
    lengths: list[int], max_tokens: int, waste: float
) -> None:
    for group in length_buckets(lengths, max_tokens, waste):
        assert len(group) == 1 or len(group) * lengths[group[0]] <= max_tokens


@given(BUCKET_LENGTHS, st.integers(1, 2000))
def test_a_bucket_begins_with_its_longest_text(lengths: list[int], max_tokens: int) -> None:
    for group in length_buckets(lengths, max_tokens):
        assert [lengths[p] for p in group] == sorted((lengths[p] for p in group), reverse=True)


def test_texts_of_one_length_share_a_bucket_up_to_its_budget() -> None:
    assert list(length_buckets([10] * 5, 30)) == [[0, 1, 2], [3, 4]]


def test_a_budget_halves_what_did_not_fit_and_comes_back() -> None:
    budget = BatchBudget(1000)
    budget.shrink(1000)
    budget.shrink(500)
    assert budget.tokens == 250
    passed = 0
    while budget.tokens < 1000:
        budget.passed(budget.tokens)
        passed += 1
    assert passed == 2 * 4 * BatchBudget.FIRST_PATIENCE
    budget.passed(1000)
    assert budget.tokens == 1000


def test_a_budget_learns_nothing_from_small_batches() -> None:
    budget = BatchBudget(1000)
    budget.shrink(1000)
    for _ in range(2 * BatchBudget.MOST_PATIENCE):
        budget.passed(249)
    assert budget.tokens == 500


def test_a_size_that_never_fits_is_tried_ever_more_rarely() -> None:
    budget, tries = BatchBudget(1000), []
    for step in range(10_000):
        if budget.tokens > 600:
            tries.append(step)
            budget.shrink(budget.tokens)
        budget.passed(budget.tokens)
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == BatchBudget.MOST_PATIENCE


def test_a_budget_is_never_nothing() -> None:
    budget = BatchBudget(2)
    for _ in range(5):
        budget.shrink(1)
    assert budget.tokens == 1


CLASSES = st.sampled_from(PRIORITIES)


def of_class(priority: Priority, *lengths: int) -> Job:
    made = job(*lengths)
    made.priority = priority
    return made


@given(st.lists(st.tuples(CLASSES, LENGTHS), min_size=1, max_size=8), QUANTUM, BUDGET)
def test_every_text_of_every_class_is_served_just_once(
    asked: list[tuple[Priority, list[int]]], quantum: int, budget: int
) -> None:
    jobs = [of_class(priority, *lengths) for priority, lengths in asked]
    queue = filled(quantum, jobs)
    served = [(piece.job, piece.index) for batch in batches(queue, budget) for piece in batch]
    wanted = [(each, index) for each in jobs for index in range(len(each.texts))]
    assert sorted(served, key=id_and_index) == sorted(wanted, key=id_and_index)
    assert (queue.tokens, len(queue)) == (0, 0)


def id_and_index(served: tuple[Job, int]) -> tuple[int, int]:
    return id(served[0]), served[1]


@pytest.mark.parametrize(("first", "second"), [("high", "normal"), ("normal", "low")])
def test_a_higher_class_goes_first(first: Priority, second: Priority) -> None:
    later, sooner = of_class(second, *[5] * 4), of_class(first, *[5] * 4)
    taken = [p.job for batch in batches(filled(100, [later, sooner]), 10) for p in batch]
    assert taken == [sooner] * 4 + [later] * 4


def test_the_background_does_not_make_other_batches_longer() -> None:
    queue = filled(100, [of_class("low", *[5] * 400), of_class("normal", 5, 5)])
    assert [piece.job.priority for piece in queue.take(1000)] == ["normal", "normal"]
    assert len(queue.take(1000)) == 200


def test_it_does_by_the_share_that_it_has_earned() -> None:
    queue = filled(100, [of_class("low", *[5] * 400), of_class("normal", *[5] * 20)])
    taken = [piece.job.priority for piece in queue.take(1000)]
    assert taken.count("low") == 100 * FairQueue.SHARE // 5


def test_what_presses_is_all_above_the_background() -> None:
    low, normal, high = (of_class(each, 5, 5) for each in ("low", "normal", "high"))
    queue = filled(100, [low, normal, high])
    assert (queue.tokens, queue.pressing) == (30, 20)
    queue.discard(normal)
    queue.take(10)
    assert (queue.tokens, queue.pressing) == (10, 0)


@given(
    st.sampled_from(PRIORITIES[1:]),
    LENGTHS,
    LENGTHS,
    QUANTUM,
    BUDGET,
)
def test_a_lower_class_has_its_share_and_no_more_while_higher_ones_have_work(
    lower: Priority, lengths: list[int], of_others: list[int], quantum: int, budget: int
) -> None:
    higher = PRIORITIES[: PRIORITIES.index(lower)]
    waiting = of_class(lower, *lengths * 100)
    queue = filled(quantum, [waiting, *(of_class(each, *of_others * 5000) for each in higher)])
    served = {"higher": 0, "lower": 0}
    for _ in range(50):
        for piece in queue.take(budget):
            served["lower" if piece.job is waiting else "higher"] += piece.length
        earned = served["higher"] * FairQueue.SHARE
        assert served["lower"] >= min(waiting.tokens, earned) - max(lengths) - max(of_others)
        assert served["lower"] <= earned


@given(st.integers(1, 50), BUDGET)
def test_a_class_that_had_nothing_to_do_has_earned_nothing(before: int, budget: int) -> None:
    queue = filled(60, [of_class("high", *[10] * 2048)])
    for _ in range(before):
        queue.take(budget)
    queue.add(of_class("low", 10, 10))
    taken = [piece.job.priority for _ in range(16) for piece in queue.take(10)]
    assert taken == ["high"] * 16


def test_a_job_that_has_begun_can_be_left_where_it_is() -> None:
    begun, whole = job(5, 5), job(5, 5)
    queue = filled(5, [begun, whole])
    queue.take(5)
    assert not queue.discard(begun, unless_begun=True)
    assert queue.discard(whole, unless_begun=True)
    assert not queue.discard(whole)
    assert queue.tokens == 5


@given(JOBS, QUANTUM, st.integers(0, 200), st.integers(1, 100))
def test_what_goes_before_a_newcomer_is_told_within_a_quantum_a_job(
    lengths: list[list[int]], quantum: int, taken: int, tokens: int
) -> None:
    queue = filled(quantum, [job(*each) for each in lengths])
    queue.take(taken)
    waiting = len(queue)
    told = queue.tokens_before(tokens, "normal")
    newcomer = job(tokens)
    queue.add(newcomer)
    before = 0
    while (piece := queue.take(1)[0]).job is not newcomer:
        before += piece.length
    # A quantum ends with the text that fills it, also the newcomer's.
    assert abs(told - before) <= waiting * (max(quantum, tokens) + 60)


def test_all_that_came_before_goes_before_one_of_its_size() -> None:
    queue = filled(100, [job(10, 20), job(30), job(15, 15)])
    assert queue.tokens_before(30, "normal") == 90


def test_little_of_a_long_job_goes_before_a_short_one() -> None:
    queue = filled(100, [job(*[50] * 1000)])
    assert queue.tokens == 50_000
    assert queue.tokens_before(8, "normal") == 8
    assert queue.tokens_before(50_000, "normal") == 100  # by then each has had a quantum


def test_all_of_a_higher_class_goes_before_and_nothing_of_a_lower_one() -> None:
    jobs = [job(30) for _ in PRIORITIES]
    for each, priority in zip(jobs, PRIORITIES, strict=True):
        each.priority = priority
    queue = filled(100, jobs)
    assert [queue.tokens_before(30, priority) for priority in PRIORITIES] == [30, 60, 90]
