# SPDX-License-Identifier: Apache-2.0
"""``appliance embed`` from its flags to its exit code."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path

import msgspec
from pydantic import ValidationError

from appliance.bulk.arguments import EmbedArguments
from appliance.bulk.chunks import Source, Todo
from appliance.bulk.embedder import Embedder, bulk_settings
from appliance.bulk.faults import BulkFault, CommandFault
from appliance.bulk.folder import Manifest, WorkFolder
from appliance.bulk.job import Job, still_to_do
from appliance.bulk.output import FinishedRows, write_output
from appliance.bulk.parts import PartWriter
from appliance.bulk.progress import Display, Meter, show_progress
from appliance.bulk.reader import open_source
from appliance.bulk.sameness import check_probe, check_same_command, describe_command
from appliance.bulk.signals import Stop, stop_on_signals
from appliance.engine.service import Engine, Loader
from appliance.settings import ModelSettings, Settings

__all__ = ["choose_model", "embed_file", "run_to_exit_code", "summarise"]

logger = logging.getLogger(__name__)


def embed_file(settings: Settings, arguments: EmbedArguments, load: Loader | None = None) -> int:
    """Run the command.

    Args:
        settings: The instance's settings.
        arguments: The command's own flags.
        load: Loads the model. Unset: the real thing.

    Returns:
        The exit code: 0; 1 if the work failed; 2 if the command cannot succeed as it is; 128 and
        the signal's number if it was told to stop.
    """

    def work(stop: Stop) -> Sequence[str]:
        if arguments.ray_actors is not None:
            raise CommandFault("--ray-actors goes with --ray")
        model = choose_model(settings, arguments.model)
        _check_paths(arguments)
        with show_progress(settings.log_level) as display:
            return _Run(bulk_settings(settings, model), arguments, display, stop, load).embed()

    return run_to_exit_code(work)


def run_to_exit_code(work: Callable[[Stop], Sequence[str]]) -> int:
    """Do the command's work and tell how it ended.

    Args:
        work: Does it, and returns lines that tell what was done.

    Returns:
        The exit code, as of :func:`embed_file`.
    """
    with stop_on_signals() as stop:
        try:
            summary = work(stop)
        except BulkFault as error:
            return _tell(error, str(error), error.exit_code)
        except OSError as error:
            return _tell(error, str(error), BulkFault.exit_code)
        except (KeyboardInterrupt, asyncio.CancelledError) as error:
            return _tell(error, "stopped", 128 + stop.signal)
    for line in summary:
        print(f"appliance: {line}", file=sys.stderr)
    return 0


def _tell(error: BaseException, message: str, exit_code: int) -> int:
    notes = getattr(error, "__notes__", ())
    print("; ".join((f"appliance: {message}", *notes)), file=sys.stderr)
    return exit_code


def summarise(out: Path | str, manifest: Manifest, meter: Meter, more: str = "") -> list[str]:
    """What was done, in one line, and warnings.

    Args:
        out: The output.
        manifest: All that it holds.
        meter: What this run has counted.
        more: To be told of the output, too.
    """
    numbers = f"{manifest.rows:,} rows, {len(manifest.probe)} values a vector{more}"
    lines = [f"{out}: {numbers}{meter.summary}"]
    if manifest.truncated:
        lines.append(f"texts cut to the length that the model reads: {manifest.truncated:,}")
    if manifest.empty:
        lines.append(f"rows without a vector: {manifest.empty:,}")
    return lines


def choose_model(settings: Settings, wanted: str | None) -> ModelSettings:
    """The model that is asked for: one of the settings, or any other.

    Raises:
        CommandFault: That can be no model's name.
    """
    if wanted is None:
        return settings.models[0]
    for model in settings.models:
        if wanted in (model.name, *model.aliases):
            return model
    try:
        return ModelSettings(model=wanted)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise CommandFault(f"--model {wanted}: {reason}") from None


def _check_paths(arguments: EmbedArguments) -> None:
    out = arguments.out
    if not out.parent.is_dir():
        raise CommandFault(f"there is no folder {out.parent} to write {out.name} to")
    if not out.exists():
        return
    if not out.is_file():
        raise CommandFault(f"{out} is there already and no regular file")
    if not arguments.from_stdin and arguments.file.exists() and arguments.file.samefile(out):
        raise CommandFault(f"{out} is the input, too; choose another name for the output")


class _Run:
    """One run of the command.

    Args:
        settings: Made by :func:`bulk_settings`.
        arguments: The command's own flags.
        display: Where progress is shown.
        stop: Knows of signals.
        load: Loads the model.
    """

    def __init__(
        self,
        settings: Settings,
        arguments: EmbedArguments,
        display: Display,
        stop: Stop,
        load: Loader | None,
    ) -> None:
        self._settings = settings
        self._arguments = arguments
        self._display = display
        self._stop = stop
        self._load = load
        self._out = arguments.out
        self._folder = WorkFolder(arguments.out)
        self._meter = Meter(None)

    def embed(self) -> list[str]:
        """Do all that is still to do.

        Returns:
            What was done, in one line, and warnings.
        """
        with open_source(self._arguments) as source, self._folder.lock():
            manifest = None if self._arguments.restart else self._folder.read()
            if manifest is not None and manifest.state == "finished":
                self._folder.publish()
                if self._out.exists():
                    return self._summary(manifest)
                manifest = None
            if self._out.exists() and not self._arguments.overwrite:
                raise CommandFault(f"{self._out} is there already; --overwrite replaces it")
            if manifest is None or not manifest.rows:
                manifest = None
                self._folder.clear()
            try:
                manifest = self._embed_rest(source, manifest)
                self._write(source, manifest)
            except (BulkFault, OSError, KeyboardInterrupt, asyncio.CancelledError) as error:
                self._note_what_is_kept(error)
                raise
            return self._summary(manifest)

    def _embed_rest(self, source: Source, manifest: Manifest | None) -> Manifest:
        command = describe_command(self._arguments, self._settings.models[0], source.schema)
        if manifest is not None:
            check_same_command(manifest, command, self._arguments, self._folder.path)
            logger.info("going on after %s rows", f"{manifest.rows:,}")
        todo = still_to_do(source, manifest)
        first = next(todo, None)
        if manifest is not None and first is None:
            return manifest
        whole = chain([first] if first else [], todo)
        return asyncio.run(self._embed_async(source, whole, command, manifest))

    async def _embed_async(
        self,
        source: Source,
        todo: Iterator[Todo],
        command: dict[str, object],
        manifest: Manifest | None,
    ) -> Manifest:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        self._stop.cancel = partial(loop.call_soon_threadsafe, task.cancel)
        engine = Engine(self._settings, self._load)
        await engine.start()
        try:
            embedder = Embedder(engine, self._arguments, source.unit)
            probe = await embedder.probe()
            truncate, on_error = self._arguments.truncate, self._arguments.on_error
            if manifest is None:
                manifest = Manifest(command, probe.tolist(), truncate, on_error)
                self._folder.write(manifest)
            else:
                check_probe(manifest, probe, self._folder.path)
                manifest = msgspec.structs.replace(manifest, truncate=truncate, on_error=on_error)
            self._meter = Meter(source.total, manifest.position, manifest.rows)
            parts = PartWriter(self._folder, manifest)
            await Job(embedder, parts, self._meter, self._display).run(todo)
            return parts.kept
        finally:
            self._stop.cancel = None
            await engine.stop()

    def _write(self, source: Source, manifest: Manifest) -> None:
        logger.info("writing %s", self._out)
        read = partial(self._folder.rows, manifest)
        rows = FinishedRows(read, source.schema, manifest.rows, len(manifest.probe))
        with self._folder.output(manifest) as file:
            write_output(file, rows, self._arguments)

    def _note_what_is_kept(self, error: BaseException) -> None:
        if isinstance(error, CommandFault):
            return
        with suppress(CommandFault, OSError):
            manifest = self._folder.read()
            if manifest is None or not manifest.rows:
                self._folder.clear()
                return
            error.add_note(
                f"the first {manifest.rows:,} rows are kept in {self._folder.path}, and the same"
                " command goes on from there"
            )

    def _summary(self, manifest: Manifest) -> list[str]:
        return summarise(self._out, manifest, self._meter)
