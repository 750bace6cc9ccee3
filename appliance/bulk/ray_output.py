# SPDX-License-Identifier: Apache-2.0
"""The folder of Parquet files that the work ends in, and what is there of it before its end.

On a disk, all is done in a folder beside it, which at the end takes its place::

    OUT.ray-partial/
      lock                    held by the one run that works here
      _manifest.json          what is being done, and which parts of it are
      parts/part-000000.parquet

By a URI, where nothing can be renamed, the parts are written to where they stay. While there is
a ``_manifest.json`` beside them they are not whole; at the end there is ``_SUCCESS``, as of Spark.
"""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import msgspec
import pyarrow as pa
from pyarrow import fs

from appliance.bulk.faults import BulkFault, CommandFault
from appliance.bulk.folder import Manifest, decode_manifest, locked
from appliance.bulk.ray_input import InputFile
from appliance.bulk.ray_places import Place, find_place
from appliance.durable import sync_folder, write_durably

__all__ = ["Counts", "RayManifest", "RayOutput", "open_output", "write_part"]

MANIFEST, SUCCESS = "_manifest.json", "_SUCCESS"
OWN_NAMES = (MANIFEST, SUCCESS)
VERSION = 1
FLAT_SYSTEMS = ("s3", "gcs", "abfs")
"""Those whose folders are there as soon as there is something in them."""

_PART = re.compile(r"part-\d{6,}\.parquet")


class Counts(msgspec.Struct, frozen=True):
    """What one part holds, as the fields of the same name in the manifest."""

    rows: int
    tokens: int
    truncated: int
    empty: int


class RayManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What has been begun.

    Attributes:
        whole: What is done in all, as of a run without Ray.
        files: The input.
        shard_rows: How the rows are shared out.
        done: What each part that is done holds, by its number.
    """

    whole: Manifest
    files: tuple[InputFile, ...]
    shard_rows: int
    done: dict[int, Counts] = {}
    version: int = VERSION

    def with_parts(self, done: dict[int, Counts]) -> RayManifest:
        """The same with other parts done."""
        totals = {
            name: sum(getattr(counts, name) for counts in done.values())
            for name in Counts.__struct_fields__
        }
        whole = msgspec.structs.replace(self.whole, parts=len(done), **totals)
        return msgspec.structs.replace(self, whole=whole, done=done)


def _part_name(number: int) -> str:
    return f"part-{number:06d}.parquet"


def _write(folder: Place, name: str, content: bytes | pa.Buffer) -> None:
    if folder.local is not None:
        with write_durably(folder.local / name) as file:
            file.write(content)
        return
    with folder.system.open_output_stream(f"{folder.path}/{name}") as stream:
        stream.write(content)


def write_part(folder: str, number: int, content: pa.Buffer) -> None:
    """Write one part, in the place of what another try has left of it.

    Args:
        folder: Path or URI of the folder for parts.
        number: The part's number.
        content: The bytes of its file.

    Raises:
        OSError: The folder is not there, or cannot be written.
    """
    _write(find_place(folder), _part_name(number), content)


class RayOutput(ABC):
    """An output.

    Args:
        place: The folder that is asked for.
        work: The folder of the manifest.
        parts: The folder that parts are written to.
    """

    def __init__(self, place: Place, work: Place, parts: Place) -> None:
        self.place = place
        self.work = work
        self.parts = parts

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Keep every other run out, where that can be.

        Raises:
            BulkFault: There is another run.
        """

    @abstractmethod
    def is_there(self) -> bool:
        """Whether there is a whole output.

        Raises:
            CommandFault: There is something else, which will not be replaced.
        """

    @abstractmethod
    def publish(self) -> None:
        """Have the parts, which are whole, count as the output."""

    def read(self) -> RayManifest | None:
        """The manifest with those of its parts that are there; ``None`` if nothing is begun.

        Raises:
            CommandFault: It was written by another version of this program.
        """
        try:
            with self.work.system.open_input_stream(f"{self.work.path}/{MANIFEST}") as stream:
                content = stream.read()
        except FileNotFoundError:
            return None
        manifest = decode_manifest(content, RayManifest, VERSION, self.work.given, MANIFEST)
        there = set(_names(self.parts))
        return manifest.with_parts(
            {n: counts for n, counts in manifest.done.items() if _part_name(n) in there}
        )

    def write(self, manifest: RayManifest) -> None:
        """Replace the manifest."""
        _write(self.work, MANIFEST, msgspec.json.encode(manifest))

    def begin(self) -> None:
        """Make the folders."""
        if self.parts.system.type_name not in FLAT_SYSTEMS:
            self.parts.system.create_dir(self.parts.path, recursive=True)

    def check_whole(self, count: int) -> None:
        """Make sure that all parts are there.

        Raises:
            BulkFault: Some are not.
        """
        there = set(_names(self.parts))
        missing = [n for n in range(count) if _part_name(n) not in there]
        if missing:
            raise BulkFault(
                f"{len(missing):,} of {count:,} parts were written, but are not in"
                f" {self.parts.given}; it has to be on a disk that all machines of the cluster"
                " share, or be given as a URI"
            )

    def clear(self) -> None:
        """Forget all work."""
        _remove(self.work, [MANIFEST])  # the first, for it promises the rest
        _remove(self.parts, [name for name in _names(self.parts) if _PART.fullmatch(name)])


def _names(folder: Place) -> list[str]:
    """Names of all that is in a folder; none if there is no folder."""
    selector = fs.FileSelector(folder.path, allow_not_found=True)
    return [info.base_name for info in folder.system.get_file_info(selector)]


def _remove(folder: Place, names: Sequence[str]) -> None:
    for name in names:
        with suppress(FileNotFoundError):
            folder.system.delete_file(f"{folder.path}/{name}")


def _check_replaceable(place: Place, names: Sequence[str]) -> None:
    foreign = [name for name in names if not _PART.fullmatch(name) and name not in OWN_NAMES]
    if foreign:
        raise CommandFault(
            f"{place.given} is there already, and {foreign[0]} in it is nothing that this command"
            " has written; choose another name for the output"
        )


class _OnDisk(RayOutput):
    """An output on a disk."""

    def __init__(self, place: Place, out: Path) -> None:
        work = out.with_name(f"{out.name}.ray-partial")
        super().__init__(place, find_place(str(work)), find_place(str(work / "parts")))
        self._out = out
        self._work = work
        if not out.parent.is_dir():
            raise CommandFault(f"there is no folder {out.parent} to write {out.name} to")

    def lock(self) -> AbstractContextManager[None]:
        return locked(self._work, self._out)

    def is_there(self) -> bool:
        if self._out.is_dir():
            _check_replaceable(self.place, _names(self.place))
        return self._out.exists()

    def publish(self) -> None:
        if self._out.is_dir():
            shutil.rmtree(self._out)
        else:
            self._out.unlink(missing_ok=True)
        Path(self.parts.path).replace(self._out)
        sync_folder(self._out.parent)
        self.clear()

    def clear(self) -> None:
        super().clear()
        with suppress(FileNotFoundError):
            shutil.rmtree(self.parts.path)  # with the halves of files that a kill has left


class _ByUri(RayOutput):
    """An output that a URI leads to."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, place, place)

    def lock(self) -> AbstractContextManager[None]:
        return nullcontext()

    def is_there(self) -> bool:
        names = _names(self.place)
        _check_replaceable(self.place, names)
        return bool(names) and (SUCCESS in names or MANIFEST not in names)

    def publish(self) -> None:
        _write(self.place, SUCCESS, b"")
        _remove(self.place, [MANIFEST])

    def clear(self) -> None:
        _remove(self.place, [SUCCESS])
        super().clear()


def open_output(given: str) -> RayOutput:
    """The output of a path or a URI; nothing is written yet.

    Raises:
        CommandFault: There can be no output.
    """
    place = find_place(given)
    return _ByUri(place) if place.local is None else _OnDisk(place, place.local)
