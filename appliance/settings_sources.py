# SPDX-License-Identifier: Apache-2.0
"""The sources of settings: flags, ``APPLIANCE_*`` and JSON files, each read on its own."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from pydantic_settings import CliSettingsSource, EnvSettingsSource

from appliance.faults import NO_SUCH_SETTING
from appliance.settings import ENV_PREFIX, Settings

__all__ = [
    "CONFIG_VARIABLE",
    "Values",
    "add_settings_flags",
    "by_number",
    "parse_values",
    "read_environment",
    "read_file",
    "unknown_variables",
]

CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"

Values = dict[str, Any]
"""What a source says, by setting."""


def add_settings_flags(parser: argparse.ArgumentParser) -> CliSettingsSource[Settings]:
    """Give a command one flag for each setting.

    Returns:
        The source that :func:`appliance.configuration.load_settings` reads the parsed flags from.
    """
    source: CliSettingsSource[Settings] = CliSettingsSource(
        Settings,
        root_parser=parser,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"JSON file with settings; {CONFIG_VARIABLE} works too",
    )
    return source


class _Environment(EnvSettingsSource):
    """``APPLIANCE_*``, with the spelling kept where a variable's name is itself a value."""

    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        prefix = f"{ENV_PREFIX}ENVIRONMENT__"
        named = {
            name.removeprefix(prefix): value
            for name, value in os.environ.items()
            if name.startswith(prefix)
        }
        if named:
            values["environment"] = named
        return values


def read_environment() -> Values:
    """What the environment says."""
    return _Environment(Settings)()


def read_file(config: Path) -> Values:
    """What a JSON file says.

    Raises:
        OSError: It cannot be read.
        TypeError: It holds no JSON object.
        ValueError: It holds no JSON.
    """
    if not config.is_file():
        raise FileNotFoundError("there is no such settings file")
    return parse_values(config.read_text(encoding="utf-8"))


def parse_values(text: str) -> Values:
    """What the text of such a file says; raises as :func:`read_file`."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise TypeError("it must hold a JSON object")
    return values


def by_number(values: Values) -> Values:
    """Have models by number, as the environment has them.

    So ``APPLIANCE_MODELS__0__...`` adds to the file's model rather than taking its place.
    """
    models = values.get("models")
    if not isinstance(models, list) or not models:
        return values
    numbered = {
        str(number): {"model": model} if isinstance(model, str) else model
        for number, model in enumerate(models)
    }
    return {**values, "models": numbered}


def unknown_variables() -> list[str]:
    """A line for each ``APPLIANCE_*`` variable that no setting has."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields} | {CONFIG_VARIABLE}
    nested = {f"{ENV_PREFIX}MODELS", f"{ENV_PREFIX}ENVIRONMENT"}
    return [
        f"{variable}: {NO_SUCH_SETTING}"
        for variable in sorted(os.environ)
        if variable.startswith(ENV_PREFIX)
        and variable not in known
        and not ("__" in variable and variable.partition("__")[0] in nested)
    ]
