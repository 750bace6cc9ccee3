# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from appliance.engine.background import ASIDE_SECONDS, ASIDE_SHARE, TURN_SECONDS, Background


def taken(workers: int, *pressing: bool) -> Background:
    """One whose workers took such batches, all at the time 100."""
    background = Background(workers)
    for each in pressing:
        background.note(100.0, pressing=each)
    return background


def test_with_a_device_to_itself_it_has_all_of_it() -> None:
    background = taken(2, False)
    assert not background.is_aside(100.0)
    assert not background.waits(100.0, idle=1)
    assert background.batch_tokens(100.0, 768) == 768
    assert background.next_look(100.0, None) is None


@pytest.mark.parametrize(("workers", "idle", "waits"), [(2, 1, True), (2, 2, False), (1, 1, False)])
def test_while_others_come_it_leaves_one_of_several_workers_free(
    workers: int, idle: int, *, waits: bool
) -> None:
    background = taken(workers, True, False)
    assert background.waits(100.0, idle) is waits
    assert background.batch_tokens(100.0, 768) == 768 * ASIDE_SHARE


def test_it_comes_back_when_no_more_of_them_come() -> None:
    background = taken(2, True)
    background.note(100.0 + ASIDE_SECONDS, pressing=False)
    assert not background.waits(100.0 + ASIDE_SECONDS, idle=1)
    assert background.batch_tokens(100.0 + ASIDE_SECONDS, 768) == 768


def test_it_waits_for_no_longer_than_its_turn() -> None:
    background = taken(2, True, False)
    assert background.next_look(100.0, None) == TURN_SECONDS
    assert background.next_look(100.0, 0.1) == 0.1
    assert not background.waits(100.0 + TURN_SECONDS, idle=1)
