# SPDX-License-Identifier: Apache-2.0
"""Faults of settings, each in one line that names the setting and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple, get_args

from pydantic import SecretStr, ValidationError

from appliance.settings import Settings

__all__ = [
    "NO_SUCH_SETTING",
    "Fault",
    "SettingsFault",
    "find_faults",
    "is_secret",
    "sounds_secret",
    "tell_faults",
]

NO_SUCH_SETTING = "there is no such setting; `appliance config schema` lists them all"
_USER = re.compile(r"//[^/?#\s]*@")
"""A user in a URL, beside whom a password may stand."""

_SECRET_WORDS = ("TOKEN", "KEY", "SECRET", "PASSW", "CREDENTIAL", "AUTH", "HEADERS")


class Fault(NamedTuple):
    """One fault.

    Attributes:
        param: Path of the setting, such as ``models.0.dtype``.
        message: What is wrong with it.
    """

    param: str
    message: str

    def __str__(self) -> str:
        """The line that tells of it."""
        return f"{self.param}: {self.message}"


class SettingsFault(Exception):
    """Settings that no instance can start with.

    Attributes:
        faults: One line for each fault, naming the setting and what is allowed.
    """

    def __init__(self, faults: Iterable[str | Fault]) -> None:
        self.faults = [str(fault) for fault in faults]
        super().__init__("\n".join(self.faults))


def is_secret(name: str) -> bool:
    """Whether a setting holds a secret."""
    field = Settings.model_fields.get(name)
    return field is not None and SecretStr in _flatten(field.annotation)


def sounds_secret(variable: str) -> bool:
    """Whether an environment variable may hold a secret, by its name."""
    return any(word in variable.upper() for word in _SECRET_WORDS)


def tell_faults(error: ValidationError, where: str = "") -> list[str]:
    """One line for each fault, naming the setting and what is allowed.

    Args:
        error: What pydantic found.
        where: Path of the whole that was checked, if that is a part of the settings.
    """
    return [str(fault) for fault in find_faults(error, where)]


def find_faults(error: ValidationError, where: str = "") -> list[Fault]:
    """Each fault; arguments as for :func:`tell_faults`."""
    return [_find(fault, where) for fault in _first_causes(error)]


def _first_causes(error: ValidationError) -> list[Any]:
    """Faults that are not the mere consequence of another, such as a list that lost its items."""
    faults = error.errors()
    inner = {fault["loc"][0] for fault in faults if len(fault["loc"]) > 1}
    return [f for f in faults if f["type"] != "too_short" or f["loc"][0] not in inner]


def _find(fault: Any, where: str) -> Fault:
    path = ".".join(str(part) for part in (where, *fault["loc"]) if part != "") or "settings"
    if fault["type"] == "extra_forbidden":
        return Fault(path, NO_SUCH_SETTING)
    message = fault["msg"].removeprefix("Value error, ")
    head = str(fault["loc"][0]) if fault["loc"] else ""
    value = fault["input"]
    may_be_secret = head == "environment" or is_secret(head)
    may_be_secret |= isinstance(value, str) and _USER.search(value) is not None
    plain = isinstance(value, (str, int, float, bool)) and not may_be_secret
    return Fault(path, message + (f" (given: {value!r})" if plain else ""))


def _flatten(annotation: Any) -> set[Any]:
    return {annotation}.union(*(_flatten(part) for part in get_args(annotation)))
