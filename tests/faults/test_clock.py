# SPDX-License-Identifier: Apache-2.0
"""A wall clock that is set wrong, and right again, under tokens and quotas."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from appliance.access import grants, store, usage
from tests.api.access import KEY, ask, create, embed, guarded, secret
from tests.conftest import run_in_thread

DAY = dt.timedelta(days=1)


def set_clock(patch: pytest.MonkeyPatch, by: dt.timedelta) -> None:
    """Have all that deals with tokens see another time of day."""

    class Wrong(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
            return dt.datetime.now(tz) + by

    for module in (grants, store, usage):
        patch.setattr(module, "datetime", Wrong)


@pytest.mark.parametrize("jump", [2 * DAY, -2 * DAY], ids=["forwards", "backwards"])
def test_tokens_follow_the_clock_and_quotas_do_not(jump: dt.timedelta, tmp_path: Path) -> None:
    end = dt.datetime.now(dt.UTC) + DAY
    with run_in_thread(guarded(tmp_path)) as server:
        ends, unused = (secret(server, expires_at=end.isoformat()) for _ in range(2))
        limited = secret(server, requests_per_minute=2)
        assert embed(server, ends).status_code == 200
        assert [embed(server, limited).status_code for _ in range(3)] == [200, 200, 429]
        with pytest.MonkeyPatch.context() as patch:
            set_clock(patch, jump)
            expected = 401 if jump > DAY else 200
            assert embed(server, ends).status_code == expected
            assert embed(server, limited).status_code == 429, "no minute has passed"
            assert embed(server, KEY).status_code == 200
            made = create(server)
            assert embed(server, made["secret"]).status_code == 200
        assert embed(server, unused).status_code == 200, "the clock is right again"
        assert embed(server, ends).status_code == 200
        assert embed(server, limited).status_code == 429
        path = f"/api/tokens/{made['token']['id']}"
        assert ask(server, KEY, "DELETE", path).json()["state"] == "revoked"
        assert embed(server, made["secret"]).status_code == 401
