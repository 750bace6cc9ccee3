# SPDX-License-Identifier: Apache-2.0
"""Builds the application: what a Serve config file names as ``embeddings_serve.app:build``."""

from __future__ import annotations

import math
from typing import Any

from ray import serve
from ray.serve import Application

from appliance.ray_placement import queue_options
from appliance.server import ANSWER_SECONDS
from embeddings_serve.arguments import Arguments, read_arguments, read_settings
from embeddings_serve.front import Front
from embeddings_serve.replica import Replica

__all__ = ["build"]


def build(args: dict[str, Any]) -> Application:
    """Put the application together.

    Args:
        args: See :class:`~embeddings_serve.arguments.Arguments`.

    Raises:
        SettingsFault: An argument or a setting is bad, or does not go with Ray.
    """
    arguments = read_arguments(args)
    settings = read_settings(arguments.config)
    seconds = math.ceil(settings.drain_timeout_seconds) + ANSWER_SECONDS
    replicas = serve.deployment(
        name="Embeddings",
        ray_actor_options=_actor_options(arguments, settings.queue),
        max_ongoing_requests=256,
        max_queued_requests=4096,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 4,
            "target_ongoing_requests": 32,
        },
        graceful_shutdown_timeout_s=seconds,
    )(Replica)
    front = serve.deployment(
        name="Front",
        ray_actor_options={"num_cpus": 0.5},
        max_ongoing_requests=1024,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 4,
            "target_ongoing_requests": 256,
        },
        graceful_shutdown_timeout_s=seconds,
    )(Front)
    return front.bind(replicas.bind(arguments), arguments)


def _actor_options(arguments: Arguments, queue: str | None) -> dict[str, Any]:
    return {"num_cpus": arguments.cpus, "num_gpus": arguments.gpus, **queue_options(queue)}
