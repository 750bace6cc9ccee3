# SPDX-License-Identifier: Apache-2.0
"""``appliance embed --ray``: the same work, shared out by Ray Data on the machines of a cluster."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePath

import msgspec
import numpy as np

from appliance.bulk.arguments import INPUT_FORMATS, EmbedArguments
from appliance.bulk.command import choose_model, run_to_exit_code, summarise
from appliance.bulk.embedder import bulk_settings
from appliance.bulk.faults import BulkFault, CommandFault
from appliance.bulk.folder import Manifest
from appliance.bulk.progress import Display, Meter, show_progress
from appliance.bulk.ray_cluster import check_secrets, connect
from appliance.bulk.ray_input import ParquetFiles, cut_shards, find_files, shard_size
from appliance.bulk.ray_output import RayManifest, RayOutput, open_output
from appliance.bulk.ray_places import find_place
from appliance.bulk.ray_pool import Pool, embed_shards, plan_pool
from appliance.bulk.ray_worker import Outcome, Work
from appliance.bulk.sameness import check_probe, check_same_command, describe_command
from appliance.bulk.signals import Stop
from appliance.settings import ModelSettings, Settings

__all__ = ["embed_with_ray"]

logger = logging.getLogger(__name__)

KEEP_SECONDS = 2.0
"""How often it is written down which parts are done."""


def embed_with_ray(settings: Settings, arguments: EmbedArguments) -> int:
    """Run the command.

    Args:
        settings: The instance's settings.
        arguments: The command's own flags, ``ray`` among them.

    Returns:
        The exit code, as of :func:`appliance.bulk.command.embed_file`.
    """

    def work(_: Stop) -> Sequence[str]:
        _check_flags(arguments)
        check_secrets(settings, sys.orig_argv)
        model = _for_one_device(choose_model(settings, arguments.model))
        with show_progress(settings.log_level) as display:
            return _Run(bulk_settings(settings, model), arguments, display).embed()

    return run_to_exit_code(work)


def _check_flags(arguments: EmbedArguments) -> None:
    if arguments.from_stdin:
        raise CommandFault("--ray reads Parquet files, not standard input")
    named = INPUT_FORMATS.get(PurePath(arguments.file_given).suffix, "parquet")
    if (arguments.format or named) != "parquet":
        raise CommandFault("--ray reads Parquet only; other formats are read without it")
    if arguments.out.suffix != ".parquet":
        raise CommandFault("--ray writes Parquet only; the name of OUT has to end in .parquet")
    places = [find_place(given).given for given in (arguments.out_given, arguments.file_given)]
    out, file = (given.rstrip("/") + "/" for given in places)
    if out.startswith(file) or file.startswith(out):
        raise CommandFault(
            f"{places[0]} is the input, in it or around it; choose another name for the output"
        )


def _for_one_device(model: ModelSettings) -> ModelSettings:
    """A model's settings for an actor, which sees one GPU or none."""
    device = "cuda" if model.device_map.startswith("cuda") else model.device_map
    return model.model_copy(update={"device_map": device, "replicas": 1})


class _Run:
    """One run of the command.

    Args:
        settings: Made by :func:`bulk_settings`.
        arguments: The command's own flags.
        display: Where progress is shown.
    """

    def __init__(self, settings: Settings, arguments: EmbedArguments, display: Display) -> None:
        self._settings = settings
        self._arguments = arguments
        self._display = display
        self._output = open_output(arguments.out_given)
        self._meter = Meter(None)

    def embed(self) -> list[str]:
        """Do all that is still to do.

        Returns:
            What was done, in one line, and warnings.
        """
        output, arguments = self._output, self._arguments
        files = find_files(arguments)
        with output.lock():
            manifest = None if arguments.restart else output.read()
            if output.is_there() and not arguments.overwrite:
                raise CommandFault(
                    f"{output.place.given} is there already; --overwrite replaces it"
                )
            if manifest is None:
                output.clear()
            else:
                self._check_same(manifest, files)
            manifest = self._embed_rest(files, manifest)
            output.publish()
        return self._summary(manifest)

    def _check_same(self, manifest: RayManifest, files: ParquetFiles) -> None:
        where = self._output.work.given
        command = describe_command(self._arguments, self._settings.models[0], files.schema)
        check_same_command(manifest.whole, command, self._arguments, where)
        if manifest.files != tuple(files.files):
            raise CommandFault(
                f"the files of the input are not those of the run that has begun {where}; bring"
                " them back, or start anew with --restart"
            )
        logger.info("going on after %s rows", f"{manifest.whole.rows:,}")

    def _embed_rest(self, files: ParquetFiles, manifest: RayManifest | None) -> RayManifest:
        with connect(self._arguments.ray or ""):
            pool = plan_pool(self._settings, self._arguments)
            keeper = _Keeper(self._output, manifest or self._new_manifest(files, pool))
            try:
                self._embed_with(pool, files, keeper)
            except (BulkFault, OSError, KeyboardInterrupt) as error:
                keeper.note_what_is_kept(error)
                raise
        return keeper.manifest

    def _new_manifest(self, files: ParquetFiles, pool: Pool) -> RayManifest:
        command = describe_command(self._arguments, self._settings.models[0], files.schema)
        whole = Manifest(command, [], self._arguments.truncate, self._arguments.on_error)
        return RayManifest(whole, tuple(files.files), shard_size(files.rows, pool.most))

    def _embed_with(self, pool: Pool, files: ParquetFiles, keeper: _Keeper) -> None:
        keeper.begin(self._arguments)
        rows = keeper.manifest.whole.rows
        meter = self._meter = Meter(files.rows, rows, rows)
        shards = list(cut_shards(files.files, keeper.manifest.shard_rows))
        todo = [shard for shard in shards if shard.number not in keeper.manifest.done]
        parts = self._output.parts.given
        work = Work(self._settings, self._arguments, parts, files.schema, pool.cores)
        for outcome in embed_shards(todo, work, pool) if todo else ():
            keeper.take(outcome)
            counts = outcome.counts
            meter.add(counts.rows, counts.tokens, meter.position + counts.rows)
            self._display.show(meter)
        keeper.keep()
        self._output.check_whole(len(shards))

    def _summary(self, manifest: RayManifest) -> list[str]:
        whole = manifest.whole
        return summarise(self._output.place.given, whole, self._meter, f", {whole.parts:,} files")


class _Keeper:
    """Writes down which parts are done.

    Args:
        output: Where.
        manifest: What has been done so far.

    Attributes:
        manifest: What has been done by now.
    """

    def __init__(self, output: RayOutput, manifest: RayManifest) -> None:
        self.manifest = manifest
        self._output = output
        self._done = dict(manifest.done)
        self._due = time.monotonic() + KEEP_SECONDS

    def begin(self, arguments: EmbedArguments) -> None:
        """Write down what is going to be done."""
        self._output.begin()
        self._replace(truncate=arguments.truncate, on_error=arguments.on_error)
        self.keep()

    def take(self, outcome: Outcome) -> None:
        """Take what became of one shard.

        Raises:
            BulkFault: It was not embedded, or by another model than those before.
        """
        if outcome.fault:
            kind = CommandFault if outcome.exit_code == CommandFault.exit_code else BulkFault
            raise kind(outcome.fault)
        if self.manifest.whole.probe:
            probe = np.array(outcome.probe, dtype=np.float32)
            check_probe(self.manifest.whole, probe, self._output.work.given)
        else:
            self._replace(probe=outcome.probe)
        self._done[outcome.number] = outcome.counts
        if time.monotonic() >= self._due:
            self.keep()
            self._due = time.monotonic() + KEEP_SECONDS

    def keep(self) -> None:
        """Write down what is done."""
        self.manifest = self.manifest.with_parts(self._done)
        self._output.write(self.manifest)

    def note_what_is_kept(self, error: BaseException) -> None:
        """Keep what is done and tell of it, or leave nothing if nothing is."""
        with suppress(OSError):
            if not self._done:
                self._output.clear()
                return
            self.keep()
            error.add_note(
                f"{self.manifest.whole.rows:,} rows are kept in {self._output.work.given}, and the"
                " same command goes on from there"
            )

    def _replace(self, **changes: object) -> None:
        whole = msgspec.structs.replace(self.manifest.whole, **changes)
        self.manifest = msgspec.structs.replace(self.manifest, whole=whole)
