# SPDX-License-Identifier: Apache-2.0
"""Jobs that want different things of one model, in one queue."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.backend import DeviceOutOfMemory
from appliance.engine.batcher import Piece
from appliance.engine.budget import BatchBudget
from appliance.engine.execution import Executor
from appliance.engine.jobs import Batch
from appliance.engine.types import Output, SparseRow
from tests.fakes import FakeBackend
from tests.unit.tickets import POISON, Ticket, piling_up, refuse_poison

OUTPUTS: tuple[Output, ...] = get_args(Output)
LABELS = 3
ALL = partial(FakeBackend, kind="classifier", gives=OUTPUTS)
LISTS = ("sparse", "tokens")


def ticket(output: Output, *lengths: int, **options: Any) -> Ticket:
    return Ticket(*lengths, output=output, labels=LABELS, **options)


def run(backend: FakeBackend, tickets: list[Ticket]) -> Executor:
    """Have all texts computed in one take."""
    executor = Executor("fake", backend, BatchBudget(1000))
    pieces = [Piece(each.job, i) for each in tickets for i in range(len(each.job.texts))]
    finish = executor.launch(pieces)
    assert finish is not None
    finish()
    return executor


JOBS = st.lists(
    st.tuples(
        st.sampled_from(OUTPUTS), st.lists(st.integers(1, 9), min_size=1), st.integers(2, 99)
    ),
    min_size=1,
    max_size=8,
)


@given(JOBS)
def test_each_job_gets_what_it_wants(wanted: list[tuple[Output, list[int], int]]) -> None:
    backend = ALL()
    tickets = [ticket(output, *lengths, token=token) for output, lengths, token in wanted]
    run(backend, tickets)
    for each in tickets:
        each.assert_right()
        assert each.times_done == 1
    # A pass for each output, whatever their order, and none for what nobody wants.
    assert sorted(backend.outputs) == sorted({output for output, _, _ in wanted})


@given(st.lists(st.tuples(st.integers(2, 9), st.integers(0, 8)), min_size=1), st.integers(1, 5))
def test_pairs_and_texts_share_a_batch(sizes: list[tuple[int, int]], others: int) -> None:
    starts = [min(start, length - 1) for length, start in sizes]
    pairs = ticket("scores", *[length for length, _ in sizes], second_starts=starts)
    texts = ticket("scores", *[3] * others, token=7)
    backend = ALL()
    run(backend, [texts, pairs])
    pairs.assert_right()
    texts.assert_right()
    assert backend.outputs == ["scores"]


def test_token_types_are_one_in_the_second_half_of_a_pair() -> None:
    texts = [np.full(length, 5, dtype=np.int64) for length in (4, 2, 3)]
    batch = Batch.pack(texts, output="scores", second_starts=[2, 0, 1])
    assert batch.token_types is not None
    assert batch.token_types.tolist() == [0, 0, 1, 1, 0, 0, 0, 1, 1]
    assert Batch.pack(texts, second_starts=[0, 0, 0]).token_types is None
    assert Batch.pack(texts).token_types is None


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_bad_text_fails_alone(output: Output) -> None:
    with piling_up(ALL, refuse_poison) as (_, held, gate):
        tickets = [
            ticket(output, 3, 4),
            ticket("dense", 5, token=6),
            ticket(output, 2, token=POISON),
        ]
        for each in tickets:
            held.submit(each.job)
        gate.opened.set()
        tickets[0].assert_right()
        tickets[1].assert_right()
        assert "the model failed (ValueError)" in str(tickets[2].wait().error)


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_does_not_fit_in_memory_is_split(output: Output) -> None:
    def small_only(batch: Batch) -> None:
        if len(batch) > 2:
            raise DeviceOutOfMemory("not enough")

    backend = ALL(before_forward=small_only)
    one, other = ticket(output, *range(1, 6)), ticket("dense", 3, token=9)
    executor = run(backend, [one, other])
    one.assert_right()
    other.assert_right()
    assert executor.overflows > 0
    assert executor.budget.tokens < 1000


class Overflows(FakeBackend):
    """Gives NaN for poisoned texts, unless it computes in float32."""

    def __init__(self, helps: bool) -> None:
        super().__init__(kind="classifier", gives=OUTPUTS)
        self.is_half_precision = True
        self.recomputed: list[int] = []
        self._helps = helps

    def forward(self, batch: Batch) -> Any:
        rows = super().forward(batch)
        for i in np.flatnonzero(batch.input_ids[batch.cu_seqlens[:-1]] == POISON):
            values = rows[i].values if isinstance(rows[i], SparseRow) else rows[i]
            values.flat[-1] = np.nan
        return rows

    def forward_in_float32(self, batch: Batch) -> Any:
        self.recomputed.append(len(batch))
        return super().forward(batch) if self._helps else self.forward(batch)


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_overflows_is_computed_once_more_in_float32(output: Output) -> None:
    backend = Overflows(helps=True)
    tickets = [ticket(output, 2, 3), ticket(output, 4, 5, token=POISON)]
    assert run(backend, tickets).recomputed == 2
    for each in tickets:
        each.assert_right()
    assert backend.recomputed == [2]


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_float32_cannot_help_fails_alone(output: Output) -> None:
    good, bad = ticket(output, 2, 3), ticket(output, 4, token=POISON)
    run(Overflows(helps=False), [good, bad])
    good.assert_right()
    assert "NaN or infinity" in str(bad.wait().error)


@pytest.mark.parametrize("output", LISTS)
def test_texts_without_any_word_have_a_row_too(output: Output) -> None:
    empty = ticket(output, 1, 2, token=0)  # nothing but special tokens
    run(ALL(), [empty])
    empty.assert_right()


def test_passes_of_one_take_are_all_begun_before_the_first_is_waited_for() -> None:
    events: list[str] = []

    class Queued(FakeBackend):
        def launch(self, batch: Batch) -> Callable[[], Any]:
            events.append("begin")
            rows = self.forward(batch)

            def wait() -> Any:
                events.append("end")
                return rows

            return wait

    tickets = [ticket("dense", 3), ticket("tokens", 3)]
    run(Queued(gives=OUTPUTS), tickets)
    for each in tickets:
        each.assert_right()
    assert events == ["begin", "begin", "end", "end"]
