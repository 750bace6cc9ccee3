# SPDX-License-Identifier: Apache-2.0
"""What the setting ``queue`` means to Ray."""

from __future__ import annotations

from typing import Any

__all__ = ["queue_options"]

A_LITTLE = 0.001
"""What an actor takes of the resource that marks the nodes of a queue: it says where the actor may
run, not how many of them."""


def queue_options(queue: str | None) -> dict[str, Any]:
    """Options of an actor, as ``ray.remote`` has them, that runs on the nodes of a queue.

    Args:
        queue: Name of the custom resource that these nodes have; ``None``: any will do.
    """
    return {} if queue is None else {"resources": {queue: A_LITTLE}}
