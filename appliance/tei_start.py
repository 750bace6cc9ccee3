# SPDX-License-Identifier: Apache-2.0
"""Starting the appliance as text-embeddings-inference (TEI) is started.

TEI's variables and flags count only where a model is named by ``MODEL_ID`` or ``--model-id``: names
as plain as ``PORT`` and ``DTYPE`` may stand in an environment for whatever else.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from appliance.database_file import holds_tokens
from appliance.faults import Fault, SettingsFault
from appliance.settings_sources import Values
from appliance.tei_variables import MODEL_ID, TEI_VARIABLES, tei_variable

__all__ = ["TeiStart", "add_tei_flags", "read_tei", "take_tei_flags"]

FIRST = "models.0"
"""Path of the one model that is served so."""

_DESTINATION = "tei_"
"""Begins the names under which parsed flags are kept."""

_DEFAULTS: Values = {
    "host": "0.0.0.0",  # noqa: S104  # as TEI listens
    "port": 3000,
    "public_metrics": True,
    "any_model_name": True,
    "te_metrics": True,
    "models": {"0": {"truncate": True}},
}
"""What TEI does where nothing is said, as far as its users would miss it."""

_SETTLE_AUTH = ("auth", "api_keys", "database_url")


@dataclass(frozen=True, slots=True)
class TeiStart:
    """What was said by TEI's variables and flags.

    Attributes:
        values: By setting, models by their number.
        written: By path of a setting, the variable or flag that says it.
        ignored: Those that mean nothing here.
    """

    values: Values = field(default_factory=dict)
    written: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def defaults(self, others: Iterable[Values]) -> Values:
        """What holds where no source says anything.

        Args:
            others: What the other sources say.
        """
        if not self.values:
            return {}
        sources = (self.values, *others)
        is_settled = any(name in values for values in sources for name in _SETTLE_AUTH)
        if is_settled or any(_has_tokens(values.get("data_dir")) for values in sources):
            return _DEFAULTS
        return {**_DEFAULTS, "auth": "none"}

    def rename(self, fault: Fault, above: Iterable[Values]) -> Fault:
        """Have a fault name the variable or flag that it comes from, if it does.

        Args:
            fault: Names a setting.
            above: What the sources say that beat this one.
        """
        path = fault.param
        if any(_says(values, path) for values in above):
            return fault
        while path:
            if path in self.written:
                return fault._replace(param=self.written[path])
            path = path.rpartition(".")[0]
        return fault

    def notes(self, above: Iterable[Values]) -> tuple[str, ...]:
        """Lines for the log.

        Args:
            above: What the sources say that beat this one.
        """
        if not self.values:
            return ()
        name = self.written[f"{FIRST}.model"]
        told = f"started as text-embeddings-inference is, by {name}, and with its defaults"
        if any(_says(values, f"{FIRST}.model") for values in above):
            told += f"; but the model is another than {name} names, as the setting models says"
        if not self.ignored:
            return (told,)
        reasons = [f"{written} ({tei_variable(written).remark})" for written in self.ignored]
        return told, f"of no meaning here: {'; '.join(reasons)}".replace("`", "")


def add_tei_flags(parser: argparse.ArgumentParser) -> None:
    """Give a command TEI's flags, but for those that it has anyhow."""
    group = parser.add_argument_group("as text-embeddings-inference; see also its variables")
    for variable in TEI_VARIABLES:
        if not variable.has_flag or variable.has_own_flag:
            continue
        form: dict[str, Any] = {"nargs": "?", "const": "true"} if variable.is_switch else {}
        group.add_argument(
            variable.flag,
            dest=_DESTINATION + variable.name,
            metavar="VALUE",
            action="append" if variable.is_list else "store",
            help=f"sets {variable.setting}" if variable.setting else "means nothing here",
            **form,
        )
    group.add_argument("-p", dest=f"{_DESTINATION}PORT", metavar="VALUE", help="sets port")


def take_tei_flags(parsed: argparse.Namespace) -> dict[str, Any]:
    """Take TEI's flags out of the parsed ones, by their variables' names."""
    names = [name for name in vars(parsed) if name.startswith(_DESTINATION)]
    taken = {name.removeprefix(_DESTINATION): vars(parsed).pop(name) for name in names}
    return {name: value for name, value in taken.items() if value not in (None, "")}


def read_tei(flags: Mapping[str, Any], own_flags: Values) -> TeiStart:
    """What TEI's flags and variables say; a flag beats the variable of its name.

    Args:
        flags: As :func:`take_tei_flags` gives them.
        own_flags: What this server's own flags say, of which some are TEI's too.

    Raises:
        SettingsFault: There are flags, but no model; or two that exclude each other.
    """
    said: dict[str, Any] = {
        variable.name: os.environ[variable.name]
        for variable in TEI_VARIABLES
        if os.environ.get(variable.name) and _counts(variable.name, os.environ[variable.name])
    }
    for variable in TEI_VARIABLES:
        if variable.has_own_flag and variable.setting in own_flags:
            said[variable.name] = own_flags[variable.setting]
    said |= flags
    if MODEL_ID not in said:
        if flags:
            raise SettingsFault(
                [
                    f"{tei_variable(name).flag}: it goes with --model-id or MODEL_ID"
                    for name in flags
                ]
            )
        return TeiStart()
    if {"DEFAULT_PROMPT", "DEFAULT_PROMPT_NAME"} <= said.keys():
        raise SettingsFault(["DEFAULT_PROMPT, DEFAULT_PROMPT_NAME: set one of the two"])
    return _start(said, flags)


def _start(said: Mapping[str, Any], flags: Mapping[str, Any]) -> TeiStart:
    values: Values = {}
    written: dict[str, str] = {}
    ignored = []
    for variable in TEI_VARIABLES:
        if variable.name not in said:
            continue
        name = variable.flag if variable.name in flags else variable.name
        if variable.setting is None:
            ignored.append(name)
            continue
        put = {variable.setting: variable.convert(said[variable.name])}
        for path, value in {**put, **variable.also}.items():
            head, _, key = path.partition(".")
            if head == "environment" and key in os.environ:  # it has been said
                continue
            _put(values, path, value)
            written[path] = name
    # What is wrong with a model as a whole is its name.
    written[FIRST] = written.get(f"{FIRST}.name", written[f"{FIRST}.model"])
    return TeiStart(values, written, tuple(ignored))


def _counts(name: str, value: str) -> bool:
    if name != "HOSTNAME":
        return True
    with suppress(ValueError):
        return bool(ip_address(value))
    return False


def _put(values: Values, path: str, value: object) -> None:
    *outer, last = path.split(".")
    for part in outer:
        values = values.setdefault(part, {})
    values[last] = value


def _says(values: Values, path: str) -> bool:
    """Whether a source says something at a path, or in one piece of what is around it."""
    found: Any = values
    for part in path.split("."):
        if not isinstance(found, dict):
            return True
        if part not in found:
            return False
        found = found[part]
    return True


def _has_tokens(data_dir: object) -> bool:
    """Whether who ran this instance before gave out tokens; then its door is not to be open."""
    return isinstance(data_dir, str | Path) and holds_tokens(Path(data_dir))
