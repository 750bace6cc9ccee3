# SPDX-License-Identifier: Apache-2.0
"""Ray clusters of one node, for tests."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

__all__ = ["free_ports", "start_cluster"]

STARTS = 3


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def start_cluster(resource: str) -> tuple[Any, int]:
    """Start a cluster whose node has four CPUs, however many there are, and a resource of its own.

    Returns:
        The cluster, and the port of its metrics.
    """
    from ray.cluster_utils import Cluster  # not at the top: Ray may not be installed

    for left in reversed(range(STARTS)):
        # Where it does not know a port, it waits no more than 15 s for the process to tell it.
        agent, listener, metrics, runtime = free_ports(4)
        cluster = Cluster()
        try:
            cluster.add_node(
                num_cpus=4,
                resources={resource: 1},
                object_store_memory=80_000_000,
                include_dashboard=False,
                metrics_agent_port=agent,
                dashboard_agent_listen_port=listener,
                metrics_export_port=metrics,
                runtime_env_agent_port=runtime,
            )
        except Exception:  # it waits 15 s for its agent, 30 s for the node, whatever else goes on
            cluster.shutdown()
            if not left:
                raise
        else:
            return cluster, metrics
    raise AssertionError("the last try returns or raises")
