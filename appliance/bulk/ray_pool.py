# SPDX-License-Identifier: Apache-2.0
"""The actors that hold the model, how many there are, and the work that Ray Data gives them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from appliance.bulk.arguments import EmbedArguments
from appliance.bulk.faults import BulkFault
from appliance.bulk.ray_input import Shard
from appliance.bulk.ray_worker import EmbedShards, Outcome, Work
from appliance.ray_placement import queue_options
from appliance.settings import Settings

__all__ = ["Pool", "embed_shards", "plan_pool"]

logger = logging.getLogger(__name__)

CPUS_PER_ACTOR = 4
"""Where there is no GPU: fewer would have most memory hold copies of the model, more would make
fewer rows a second of the same cores."""

SHARDS_AT_ONCE = 2
"""That an actor has: while the last texts of one leave it, the first of the next come in."""

STUCK_SECONDS = 4 * 3600.0
"""Time without any shard done after which Ray gives up. An actor that dies is replaced and its
shards are done again, without end if it is they that kill it."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Actors, all alike.

    Attributes:
        least: Actors that are there all the time.
        most: Actors at most, and at the start.
        cores: Cores that each may use. Unset: all of its machine.
        options: What each takes of the cluster, as ``ray.remote`` has it.
    """

    least: int
    most: int
    cores: int | None
    options: dict[str, Any]


def plan_pool(settings: Settings, arguments: EmbedArguments) -> Pool:
    """Decide on the actors.

    Args:
        settings: Their first model is the one that each actor holds.
        arguments: The command's flags.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    options = queue_options(settings.queue)
    if settings.queue is not None:
        nodes = [node for node in nodes if settings.queue in node]
        if not nodes:
            logger.warning(
                "no machine of the cluster has the resource %r (the setting queue) yet; waiting",
                settings.queue,
            )
    wanted = arguments.ray_actors
    gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if gpus and settings.models[0].device_map != "cpu":
        count = sum(int(node["GPU"]) for node in gpus)
        cores = max(1, min(int(node.get("CPU", 1) // node["GPU"]) for node in gpus))
        options |= {"num_gpus": 1, "num_cpus": 1}
    else:
        cpus = [int(node.get("CPU", 0)) for node in nodes]
        cores = _cpus_for_each(cpus, wanted and wanted[1])
        count = max(1, sum(n // cores for n in cpus))
        options["num_cpus"] = cores
    least, most = wanted or (1, count)
    return Pool(least, most, cores, options)


def _cpus_for_each(cpus: Sequence[int], actors: int | None) -> int:
    """Most CPUs that so many actors can each have on machines of so many CPUs."""
    largest = max(1, *cpus, 1)
    if actors is None:
        return min(CPUS_PER_ACTOR, largest)
    fits = (each for each in range(largest, 0, -1) if sum(n // each for n in cpus) >= actors)
    return next(fits, 1)


def embed_shards(todo: Sequence[Shard], work: Work, pool: Pool) -> Iterator[Outcome]:
    """Have Ray Data embed shards. They come back as they are done, in any order.

    Raises:
        BulkFault: Ray gave up.
    """
    # Not at the top: it may not be installed, and takes seconds to read.
    from ray import data
    from ray.data.exceptions import ExecutionTimeoutError

    context = data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = STUCK_SECONDS
    most = min(pool.most, len(todo))
    embedded = data.from_items(
        [{"shard": msgspec.msgpack.encode(shard)} for shard in todo],
        override_num_blocks=len(todo),
    ).map_batches(
        EmbedShards,
        fn_constructor_args=(work,),
        batch_size=None,
        batch_format="pyarrow",
        compute=data.ActorPoolStrategy(
            min_size=min(pool.least, most),
            max_size=most,
            initial_size=most,
            max_tasks_in_flight_per_actor=SHARDS_AT_ONCE,
            max_concurrent_calls_per_actor=SHARDS_AT_ONCE,
            enable_true_multi_threading=True,
        ),
        **pool.options,
    )
    try:
        tables: Iterable[Any] = embedded.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        )
        for table in tables:
            for outcome in table.column("outcome").to_pylist():
                yield msgspec.msgpack.decode(outcome, type=Outcome)
    except ExecutionTimeoutError:
        hours = STUCK_SECONDS / 3600
        raise BulkFault(f"nothing was done for {hours:g} hours; Ray's logs say more") from None
    except Exception as error:  # whatever it is, it is Ray's: ours come as outcomes
        logger.debug("Ray gave up", exc_info=True)
        raise BulkFault(f"Ray gave up: {_last_line(error)}") from None


def _last_line(error: Exception) -> str:
    """Where Ray has the cause, behind a traceback."""
    return str(error).strip().rpartition("\n")[2] or type(error).__name__
