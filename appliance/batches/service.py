# SPDX-License-Identifier: Apache-2.0
"""Files and batches, as the routes see them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.access.door import Door
from appliance.access.grants import Grant
from appliance.batches.contents import Contents, Incoming
from appliance.batches.records import Batch, Page, StoredFile, new_batch, new_file_id
from appliance.batches.rows import Answering
from appliance.batches.tools import Tools
from appliance.batches.worker import Worker
from appliance.engine.service import Engine
from appliance.errors import Conflict, InvalidRequest, ObjectNotFound, StoreUnavailable
from appliance.settings import Settings

if TYPE_CHECKING:
    from appliance.batches.store import BatchStore

__all__ = ["Batches"]

OPEN_SECONDS = 3.0
RETRY_SECONDS = 2.0


class Batches:
    """Keeps files and batches, and has the batches worked off.

    Who asks sees what was made with the same stored token; who has the scope ``admin``, all.

    Args:
        settings: The instance's settings.
        door: Knows the keys.
        answering: Makes what answers one request, of the engine.
    """

    def __init__(
        self, settings: Settings, door: Door, answering: Callable[[Engine, Door], Answering]
    ) -> None:
        self._settings = settings
        self._door = door
        self._answering = answering
        self._contents = None if settings.data_dir is None else Contents(settings.data_dir)
        self._store: BatchStore | None = None
        self._worker: Worker | None = None
        self._opening: asyncio.Task[None] | None = None

    def start(self, engine: Engine) -> None:
        """Begin, and go on with what there is; the store is opened behind it."""
        if self._contents is not None:
            self._opening = asyncio.create_task(self._open(engine))

    async def stop(self) -> None:
        """Stop at once; what has been done is kept, and the next start goes on there."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._worker is not None:
            await self._worker.stop()
        if self._store is not None:
            await self._store.close()

    def check(self) -> None:
        """Refuse what there is no place for.

        Raises:
            Conflict: No folder is set.
        """
        if self._contents is None:
            raise Conflict("No files can be kept: set data_dir, a folder.")

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[tuple[Incoming, str]]:
        """Take a file's content in, and its id; it is deleted if the block fails.

        Raises:
            Conflict: No folder is set.
            StorageFailed: The content cannot be written.
        """
        self.check()
        assert self._contents is not None
        file_id = new_file_id()
        async with self._contents.incoming(file_id) as incoming:
            yield incoming, file_id

    async def keep_file(
        self, grant: Grant, file_id: str, filename: str, nbytes: int, expires_seconds: int | None
    ) -> StoredFile:
        """Note a file whose content has come in. Raises as :meth:`list_files` does."""
        assert self._contents is not None
        now = int(time.time())
        expires_at = None if expires_seconds is None else now + expires_seconds
        file = StoredFile(file_id, grant.id, filename, "batch", nbytes, now, expires_at)
        try:
            await (await self._opened()).add_file(file)
        except BaseException:
            self._contents.remove(file_id)
            raise
        return file

    async def list_files(
        self, grant: Grant, page: Page, purpose: str | None
    ) -> tuple[list[StoredFile], bool]:
        """A page of files, and whether there are more.

        Raises:
            Conflict: No folder is set.
            StoreUnavailable: The database cannot be read or written now.
        """
        return await (await self._opened()).list_files(grant, page, purpose)

    async def file(self, grant: Grant, file_id: str) -> StoredFile:
        """One file.

        Raises:
            ObjectNotFound: There is none. And as :meth:`list_files` does.
        """
        found = await (await self._opened()).file(grant, file_id)
        if found is None:
            raise ObjectNotFound(f"No such File object: {file_id}", param="id")
        return found

    async def content(self, grant: Grant, file_id: str) -> tuple[StoredFile, Path]:
        """One file, and where its content is. Raises as :meth:`file` does."""
        found = await self.file(grant, file_id)
        assert self._contents is not None
        path = self._contents.path(found.id)
        if not await asyncio.to_thread(path.is_file):
            raise ObjectNotFound(
                f"The content of '{file_id}' is not in the data_dir of this instance.", param="id"
            )
        return found, path

    async def delete_file(self, grant: Grant, file_id: str) -> None:
        """Delete a file.

        Raises:
            Conflict: A batch that has not ended reads it. And as :meth:`file` does.
        """
        found = await self.file(grant, file_id)
        assert self._contents is not None
        await (await self._opened()).remove_file(grant, found.id)
        await asyncio.to_thread(self._contents.remove, found.id)

    async def create(
        self,
        grant: Grant,
        input_file_id: str,
        metadata: dict[str, str] | None,
        output_expires_seconds: int | None,
    ) -> Batch:
        """Make a batch.

        Raises:
            InvalidRequest: Its input is no file to read it from. And as :meth:`list_files` does.
        """
        batch = new_batch(grant.id, input_file_id, metadata, output_expires_seconds)
        found = await (await self._opened()).add_batch(grant, batch)
        if found is None or found.purpose != "batch":
            fault = (
                f"no such File object: {input_file_id}"
                if found is None
                else f"the purpose of {input_file_id} is '{found.purpose}', but must be 'batch'"
            )
            raise InvalidRequest(f"'input_file_id' is invalid: {fault}.", param="input_file_id")
        if self._worker is not None:
            self._worker.look()
        return batch

    async def list_batches(self, grant: Grant, page: Page) -> tuple[list[Batch], bool]:
        """A page of batches, and whether there are more. Raises as :meth:`list_files` does."""
        return await (await self._opened()).list_batches(grant, page)

    async def batch(self, grant: Grant, batch_id: str) -> Batch:
        """One batch.

        Raises:
            ObjectNotFound: There is none. And as :meth:`list_files` does.
        """
        found = await (await self._opened()).batch(grant, batch_id)
        if found is None:
            raise ObjectNotFound(f"No batch found with id '{batch_id}'.", param="batch_id")
        return found

    async def cancel(self, grant: Grant, batch_id: str) -> Batch:
        """Have a batch cancelled; what has been done of it is kept.

        Raises:
            Conflict: It has ended, or nearly.
            ObjectNotFound: There is none. And as :meth:`list_files` does.
        """
        found = await (await self._opened()).cancel(grant, batch_id)
        if found is None:
            raise ObjectNotFound(f"No batch found with id '{batch_id}'.", param="batch_id")
        if found.status != "cancelling":
            raise Conflict(f"Cannot cancel a batch with status '{found.status}'.")
        if self._worker is not None:
            self._worker.look(batch_id)
        return found

    async def _opened(self) -> BatchStore:
        self.check()
        if self._store is None and self._opening is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._opening), OPEN_SECONDS)
        if self._store is None:
            raise StoreUnavailable(
                "The database of files and batches cannot be reached now.", retry_after=1.0
            )
        return self._store

    async def _open(self, engine: Engine) -> None:
        store = await asyncio.to_thread(_import_and_make, self._settings)
        try:
            while True:
                if await _migrate(store):
                    break
                await asyncio.sleep(RETRY_SECONDS)
        except BaseException:
            await store.close()
            raise
        self._store = store
        assert self._contents is not None
        answer = self._answering(engine, self._door)
        self._worker = Worker(Tools(store, self._contents, self._door, engine, answer))


async def _migrate(store: BatchStore) -> bool:
    try:
        await store.migrate()
    except StoreUnavailable:  # which the store has logged
        return False
    return True


def _import_and_make(settings: Settings) -> BatchStore:
    # SQLAlchemy takes a good part of a second to import, which the port must not wait for.
    from appliance.batches.store import BatchStore

    return BatchStore(settings)
