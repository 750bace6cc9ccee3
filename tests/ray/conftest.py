# SPDX-License-Identifier: Apache-2.0
"""A Ray cluster of the tests' own, with the application on it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import REAL_MODEL
from tests.postgresql import PostgreSQL, make_postgresql
from tests.ray_clusters import free_ports, start_cluster

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ops" / "ray"
sys.path.insert(0, str(PACKAGE))

KEY = "a-key-of-the-tests"
EMBEDDED = "embedded:all-MiniLM-L6-v2"
MODELS = (REAL_MODEL, "second", "third")
HELD = 2
"""Models that a replica may hold; there is one more."""
POOL = "pool-a"
DEADLINE_SECONDS = 90.0

SERVE_CONFIG: dict[str, Any] = {
    "http_options": {"host": "127.0.0.1"},
    "applications": [
        {
            "name": "embeddings",
            "route_prefix": "/published",
            "import_path": "embeddings_serve.app:build",
            "args": {
                "config": {
                    "models": [
                        {"model": EMBEDDED, "aliases": ["an-alias"]},
                        *({"model": EMBEDDED, "name": name} for name in MODELS[1:]),
                    ],
                    "queue": POOL,
                    "model_wait_seconds": 120,
                },
                "models_per_replica": HELD,
                "cpus": 0.5,
            },
            "deployments": [
                {
                    "name": "Embeddings",
                    "autoscaling_config": {"min_replicas": 2, "max_replicas": 2},
                    "health_check_period_s": 1,
                    "graceful_shutdown_wait_loop_s": 0.1,
                },
                {"name": "Front", "graceful_shutdown_wait_loop_s": 0.1},
            ],
        }
    ],
}


@dataclass(frozen=True)
class RayServer:
    """The application, served by Ray.

    Attributes:
        url: Where it is published.
        metrics: Where Ray's own metrics are.
        database: Where its tokens are.
    """

    url: str
    metrics: str
    database: PostgreSQL
    client: httpx.Client = field(compare=False)

    def replicas(self) -> dict[str, dict[str, Any]]:
        """What each replica says of itself; returns once two have."""
        found: dict[str, dict[str, Any]] = {}
        for _ in within_time():
            answer = self.client.get("/api/status")
            if answer.status_code == 200:
                found[answer.headers["x-served-by"]] = answer.json()
            if len(found) == 2:
                return found
        raise AssertionError(found)

    def held(self) -> dict[str, set[str]]:
        """By replica, the models that it has loaded."""
        return {
            name: {m["name"] for m in status["models"] if m["state"] in ("active", "idle")}
            for name, status in self.replicas().items()
        }

    def metric(self, name: str) -> list[float]:
        """The values of one of Ray's metrics."""
        text = httpx.get(self.metrics).text
        lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return [float(line.rpartition(" ")[2]) for line in lines]


def within_time(pause: float = 0.05) -> Iterator[None]:
    """Go on for as long as a test may wait for something."""
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end:
        yield
        time.sleep(pause)


@contextmanager
def _cluster() -> Iterator[int]:
    """A cluster of one node, and the port of its metrics."""
    import ray

    cluster, metrics = start_cluster(POOL)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        yield metrics
    finally:
        ray.shutdown()
        cluster.shutdown()


@contextmanager
def _deployed(config: dict[str, Any], folder: Path) -> Iterator[str]:
    """The application, deployed as ``serve run`` does it."""
    import yaml
    from click.testing import CliRunner
    from ray import serve
    from ray.serve import scripts

    [port] = free_ports(1)
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(config | {"http_options": {"host": "127.0.0.1", "port": port}}))
    done = CliRunner().invoke(scripts.run, [str(file), "--non-blocking"])
    assert done.exit_code == 0, done.output
    try:
        for _ in within_time(0.2):
            overview = serve.status().applications.get("embeddings")
            if overview is not None and overview.status not in ("NOT_STARTED", "DEPLOYING"):
                break
        assert overview is not None
        assert overview.status == "RUNNING", overview
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayServer]:
    """The application with two replicas, whose tokens are in PostgreSQL."""
    pytest.importorskip("ray.serve", reason="Ray is not installed (the extra `ray`)")
    database = make_postgresql()
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        stack.callback(database.remove)
        database.start()
        # What the processes of the cluster get is what they are started with.
        patch.setenv("PYTHONPATH", f"{PACKAGE}{os.pathsep}{ROOT}")
        patch.setenv("APPLIANCE_API_KEYS", KEY)
        patch.setenv("APPLIANCE_DATABASE_URL", database.url)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_metrics_report_interval_ms", "500")
        patch.setenv("RAY_prestart_worker_first_driver", "0")
        metrics = stack.enter_context(_cluster())
        root = stack.enter_context(_deployed(SERVE_CONFIG, tmp_path_factory.mktemp("serve")))
        url = f"{root}/published"
        headers = {"authorization": f"Bearer {KEY}"}
        client = stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=60))
        yield RayServer(url, f"http://127.0.0.1:{metrics}/metrics", database, client)
