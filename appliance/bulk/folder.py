# SPDX-License-Identifier: Apache-2.0
"""The work that is done so far: the folder ``OUT.partial`` beside the output.

::

    OUT.partial/
      lock                  held by the one run that works here
      manifest.json         what is being done, and how far it got
      part-000000.arrow     finished rows with their vectors, in Arrow's IPC stream format
      output                the output while it is written

The manifest is replaced after each part, and each is on disk before the next step: at whatever
moment a run ends, rows count as done if and only if the manifest says so. A part that it does not
know of is written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import msgspec
import pyarrow as pa

from appliance.bulk.faults import BulkFault, CommandFault
from appliance.durable import AlreadyLocked, hold_lock, sync_folder, write_durably

__all__ = ["Manifest", "WorkFolder", "decode_manifest", "locked"]

VERSION = 1


class Versioned(Protocol):
    """What tells the version that it was written by."""

    @property
    def version(self) -> int:
        """That version."""


AnyManifest = TypeVar("AnyManifest", bound=Versioned)


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a work folder holds.

    Attributes:
        command: All that decides what the vectors and the rows are.
        probe: Vector of a text that every run embeds, to know the model again by.
        truncate: Whether texts were cut.
        on_error: What was done with rows that have no text.
        state: ``embedding``, or ``finished`` once the output is whole.
        parts: Number of parts.
        rows: Rows in them.
        tokens: Tokens that the model saw.
        truncated: Texts that were cut.
        empty: Rows without a vector.
        position: How far into the input they reach.
        digest: Hexadecimal digest of the rows as they came from the input.
    """

    command: dict[str, Any]
    probe: list[float]
    truncate: bool
    on_error: str
    state: Literal["embedding", "finished"] = "embedding"
    parts: int = 0
    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    empty: int = 0
    position: int = 0
    digest: str = ""
    version: int = VERSION


@contextmanager
def locked(folder: Path, out: Path) -> Iterator[None]:
    """Keep every other run out of a folder of work, which goes in the end if it is empty.

    Args:
        folder: The folder. It is made.
        out: The output that the work is for.

    Raises:
        BulkFault: There is another run.
    """
    try:
        with hold_lock(folder / "lock"):
            yield
    except AlreadyLocked as error:
        owner = f" (process {error.owner})" if error.owner else ""
        raise BulkFault(f"another run{owner} is writing {out}") from None
    finally:
        with suppress(OSError):  # there is something in it: work for another time
            folder.rmdir()


def decode_manifest(
    content: bytes, kind: type[AnyManifest], version: int, folder: Path | str, name: str
) -> AnyManifest:
    """Understand a manifest.

    Args:
        content: The bytes of its file.
        kind: What it is.
        version: That of such manifests now.
        folder: The folder that it is in.
        name: Of its file.

    Raises:
        CommandFault: It was written by another version of this program.
    """
    try:
        manifest = msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError as error:
        raise CommandFault(
            f"{folder}/{name} is not understood ({error}); drop it with --restart"
        ) from None
    if manifest.version != version:
        raise CommandFault(
            f"{folder} was begun by another version of this program; finish it with that, or drop"
            " it with --restart"
        )
    return manifest


class WorkFolder:
    """The folder of one output. Its methods are for whoever holds the lock.

    Args:
        out: The output.
    """

    def __init__(self, out: Path) -> None:
        self.path = out.with_name(f"{out.name}.partial")
        self._out = out
        self._manifest = self.path / "manifest.json"
        self._output = self.path / "output"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other run out.

        Raises:
            BulkFault: There is another run.
        """
        with locked(self.path, self._out):
            yield

    def read(self) -> Manifest | None:
        """The manifest; ``None`` if nothing has been begun.

        Raises:
            CommandFault: It was written by another version of this program.
        """
        try:
            content = self._manifest.read_bytes()
        except FileNotFoundError:
            return None
        return decode_manifest(content, Manifest, VERSION, self.path, self._manifest.name)

    def write(self, manifest: Manifest) -> None:
        """Replace the manifest."""
        with write_durably(self._manifest) as file:
            file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2))

    def add_part(self, rows: Sequence[pa.RecordBatch], manifest: Manifest) -> None:
        """Keep finished rows.

        Args:
            rows: The rows, one batch for each chunk.
            manifest: What the folder holds with them.
        """
        with write_durably(self._part(manifest.parts - 1)) as file:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            with pa.ipc.new_stream(file, rows[0].schema, options=options) as writer:
                for batch in rows:
                    writer.write_batch(batch)
        self.write(manifest)

    def rows(self, manifest: Manifest) -> Iterator[pa.RecordBatch]:
        """All rows that are done, one batch for each chunk."""
        for number in range(manifest.parts):
            with self._part(number).open("rb") as file, pa.ipc.open_stream(file) as reader:
                yield from reader

    @contextmanager
    def output(self, manifest: Manifest) -> Iterator[Any]:
        """A file to write the output to. Once it is whole it takes the output's name."""
        with write_durably(self._output) as file:
            yield file
        self.write(msgspec.structs.replace(manifest, state="finished"))
        self.publish()

    def publish(self) -> None:
        """Give the finished output its name, and remove all else."""
        if self._output.exists():
            self._output.replace(self._out)
            sync_folder(self._out.parent)
        self._remove_parts()
        self._manifest.unlink()  # the last, so that the next run finds that there was one

    def clear(self) -> None:
        """Forget all work."""
        self._manifest.unlink(missing_ok=True)  # the first, for it promises the rest
        sync_folder(self.path)
        self._remove_parts()

    def _remove_parts(self) -> None:
        for path in (self._output, *self.path.glob("part-*.arrow"), *self.path.glob("*.tmp")):
            path.unlink(missing_ok=True)

    def _part(self, number: int) -> Path:
        return self.path / f"part-{number:06d}.arrow"
