# SPDX-License-Identifier: Apache-2.0
"""What probes and balancers see."""

from __future__ import annotations

import httpx
import pytest

from tests.conftest import RunningServer, run_in_thread


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_healthy_by_get_and_by_head(fake_server: RunningServer, path: str) -> None:
    answer = httpx.get(fake_server.url + path)
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "models": [{"name": "fake/model", "state": "idle"}, {"name": "other", "state": "idle"}],
    }
    assert httpx.head(fake_server.url + path).status_code == 200


def test_a_server_that_is_told_to_stop_is_alive_but_not_ready() -> None:
    with run_in_thread() as server:
        assert server.engine is not None
        server.engine.draining = True
        assert httpx.get(f"{server.url}/health").status_code == 200
        ready = httpx.get(f"{server.url}/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "stopping")
