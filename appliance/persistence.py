# SPDX-License-Identifier: Apache-2.0
"""What outlives a restart: the configuration that was imported, and models added and removed since.

There are two files in ``data_dir``, one on top of the other. ``config.json`` is a whole
configuration; it was imported by ``PUT /api/config`` and takes the place of the file that
``--config`` names, see :mod:`appliance.configuration`. ``models.json`` holds what was changed
since, model by model: an object of two lists, of which ``models`` has the same objects as the
setting ``models``, and ``removed`` the names of models in the settings that are not to be served
any more.
To import a configuration therefore writes the former and does away with the latter, in this order:
between the two, the new configuration holds with the old changes.

Servers that share the folder each change what is in the files, not what they had read of them. They
read them at their start only: what one of them was asked to change, the others serve from their
next start on.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from appliance.configuration import kept_file
from appliance.durable import AlreadyLocked, hold_lock, write_durably
from appliance.faults import SettingsFault, tell_faults
from appliance.published import name_in_the_way, tell_clash
from appliance.settings import ModelSettings, Settings

__all__ = ["KeptModels", "as_written", "models_file"]

logger = logging.getLogger(__name__)

LOCK_SECONDS = 5.0
"""Longest wait for another server that changes the same files."""


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    """The file."""

    models: list[dict[str, Any]] = []
    removed: list[str] = []


def models_file(folder: Path) -> Path:
    """The file, given the setting ``data_dir``."""
    return folder.expanduser() / "models.json"


class KeptModels:
    """The models that were added or removed for good.

    Args:
        folder: The setting ``data_dir``; it is made when there is something to keep.

    Attributes:
        path: The file.
        models: Those that were added.
        removed: Names of models in the settings that were removed.

    Raises:
        SettingsFault: The file is there and cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = models_file(folder)
        self.models: tuple[ModelSettings, ...] = ()
        self.removed: frozenset[str] = frozenset()
        self._read()

    def _read(self) -> None:
        try:
            content = msgspec.json.decode(self.path.read_bytes(), type=_Content)
            self.models = tuple(_checked(n, model) for n, model in enumerate(content.models))
            self.removed = frozenset(content.removed)
        except FileNotFoundError:
            self.models, self.removed = (), frozenset()
        except OSError as error:
            raise SettingsFault([f"data_dir: {error}"]) from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise SettingsFault([f"{self.path}: {error}"]) from None
        except SettingsFault as error:
            raise SettingsFault([f"{self.path}: {fault}" for fault in error.faults]) from None

    def served(self, settings: Settings) -> list[ModelSettings]:
        """The models to start with: those of the settings, changed as was asked for since.

        Args:
            settings: The instance's.
        """
        configured = settings.models
        served = [model for model in configured if model.name not in self.removed]
        for model in configured:
            if model not in served:
                logger.info("model %s: not served, as it was removed (%s)", model.name, self.path)
        names = {name for model in served for name in model.names}
        for model in self.models:
            if clashing := names.intersection(model.names):
                logger.warning(
                    "model %s: not served, though it was added (%s): a model of the settings"
                    " answers to %s",
                    model.name,
                    self.path,
                    ", ".join(sorted(clashing)),
                )
                continue
            if name := name_in_the_way(settings.route, model.names):
                told = tell_clash(settings.route, name)
                logger.warning(
                    "model %s: not served, though it was added (%s): %s",
                    model.name,
                    self.path,
                    told,
                )
                continue
            served.append(model)
            names.update(model.names)
        return served

    def add(self, model: ModelSettings) -> None:
        """Keep a model that was added. Blocks.

        Raises:
            OSError: Nothing has changed.
        """
        with self._alone():
            others = tuple(m for m in self.models if set(m.names).isdisjoint(model.names))
            self._write((*others, model), self.removed)

    def remove(self, name: str, configured: tuple[ModelSettings, ...]) -> None:
        """Keep a model away that was removed. Blocks.

        Args:
            name: Its name.
            configured: The setting ``models``.

        Raises:
            OSError: Nothing has changed.
        """
        with self._alone():
            models = tuple(model for model in self.models if model.name != name)
            in_settings = {name}.intersection(model.name for model in configured)
            self._write(models, self.removed | in_settings)

    def replace(self, configuration: dict[str, Any], *, with_models: bool) -> None:
        """Keep a whole configuration. Blocks.

        Args:
            configuration: Settings without secrets.
            with_models: Its models will be served, so forget what was added and removed.

        Raises:
            OSError: Nothing has changed.
        """
        with self._alone():
            with write_durably(kept_file(self._folder)) as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(msgspec.json.format(msgspec.json.encode(configuration)) + b"\n")
            if with_models:
                self.path.unlink(missing_ok=True)
                self.models, self.removed = (), frozenset()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Know what is in the file, and have nobody else change it until the block ends.

        Raises:
            OSError: That cannot be had.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with hold_lock(self.path.with_name("models.lock"), LOCK_SECONDS):
                self._read()
                yield
        except AlreadyLocked as error:
            told = f"another server, process {error.owner}, holds it"
            raise OSError(errno.EAGAIN, told) from None
        except SettingsFault as error:
            raise OSError(errno.EINVAL, "; ".join(map(str, error.faults))) from None

    def _write(self, models: tuple[ModelSettings, ...], removed: frozenset[str]) -> None:
        content = _Content([as_written(model) for model in models], sorted(removed))
        with write_durably(self.path) as file:
            file.write(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
        self.models, self.removed = models, removed


def _checked(number: int, model: dict[str, Any]) -> ModelSettings:
    try:
        return ModelSettings.model_validate(model)
    except ValidationError as error:
        raise SettingsFault(tell_faults(error, f"models.{number}")) from None


def as_written(model: ModelSettings) -> dict[str, Any]:
    """A model's settings as an object of the setting ``models``: what was set, no defaults."""
    return model.model_dump(mode="json", exclude_unset=True)
