# SPDX-License-Identifier: Apache-2.0
"""``appliance config``: settings shown, checked, exported and cloned."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from appliance.configuration import Configuration, check_values
from appliance.exporting import change_setting, export_settings, known_commits
from appliance.faults import SettingsFault
from appliance.persistence import KeptModels, models_file
from appliance.settings import Settings
from appliance.settings_sources import parse_values, read_file

__all__ = [
    "add_clone_flags",
    "add_remote_flags",
    "import_configuration",
    "run_config_command",
    "take_arguments",
]

EXIT_FAILED = 1
HIDDEN = "**********"


def add_remote_flags(parser: argparse.ArgumentParser) -> None:
    """Let a command ask a running instance rather than the settings."""
    parser.add_argument(
        "--base-url",
        metavar="URL",
        help="a running server: its settings, with the models that it serves now",
    )
    parser.add_argument("--api-key", metavar="KEY", help="for it; unset: the settings' first")


def add_clone_flags(parser: argparse.ArgumentParser) -> None:
    """Let a command change what it exports."""
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="setting to change, such as port=8081 or models.0.dtype=float16; the value is JSON or"
        " text, and null takes the setting out; can be repeated",
    )


def take_arguments(parsed: argparse.Namespace, action: str) -> argparse.Namespace:
    """Take what is no setting out of the parsed flags."""
    own = {name: vars(parsed).pop(name, None) for name in ("base_url", "api_key", "set")}
    return argparse.Namespace(action=action, **own)


def run_config_command(arguments: argparse.Namespace, configuration: Configuration) -> int:
    """Run one of the commands.

    Args:
        arguments: As :func:`take_arguments` gives them.
        configuration: The settings.

    Returns:
        The exit code: 0, or 1 if a server does not answer.

    Raises:
        SettingsFault: What is to be printed would start no instance.
    """
    if arguments.action in ("show", "validate", "export") and not arguments.base_url:
        _tell_kept(configuration)
    if arguments.action == "show":
        return _show(configuration)
    if arguments.action == "validate":
        return _validate(configuration)
    if arguments.base_url:
        # Not at the top: no other command needs rich and httpx.
        from appliance.models_command import ask_server

        data = ask_server(
            "/api/config", arguments.base_url, arguments.api_key, configuration.settings
        )
        if data is None:
            return EXIT_FAILED
    else:
        data = _exported(configuration)
    for change in arguments.set or []:
        _change(data, change)
    if arguments.set and (faults := check_values(data)):
        raise SettingsFault(faults)
    print(json.dumps(data, indent=2))
    for name in data.get("secrets_omitted", ()):
        print(f"appliance: left out, a secret: {name}", file=sys.stderr)
    return 0


def import_configuration(arguments: argparse.Namespace, settings: Settings) -> int:
    """Have a running server keep a configuration, and print what it says to that.

    Args:
        arguments: ``file``, ``base_url`` and ``api_key`` as given.
        settings: Where the server listens and the keys it takes, unless flags say otherwise.

    Returns:
        The exit code: 0, or 1 if the server does not answer, or refuses.

    Raises:
        SettingsFault: The file holds no JSON object.
    """
    from appliance.models_command import ask_server

    answer = ask_server(
        "/api/config",
        arguments.base_url,
        arguments.api_key,
        settings,
        _read(arguments.file),
    )
    if answer is None:
        return EXIT_FAILED
    overridden = [f"{name} ({source})" for name, source in answer["overridden"].items()]
    told = {
        "in force now": answer["applied"],
        "from the next start on": answer["at_restart"],
        "overridden, and so without effect": overridden,
    }
    for what, names in told.items():
        if names:
            print(f"{what}: {', '.join(names)}")
    if not any(told.values()):
        print("kept; it says what is in force already")
    return 0


def _read(file: Path) -> dict[str, Any]:
    try:
        return parse_values(sys.stdin.read()) if str(file) == "-" else read_file(file)
    except (OSError, TypeError, ValueError) as error:
        raise SettingsFault([f"{file}: {error}"]) from None


def _tell_kept(configuration: Configuration) -> None:
    if configuration.kept is not None:
        print(
            f"appliance: {configuration.kept}, which PUT /api/config has kept, is in force in"
            " place of --config",
            file=sys.stderr,
        )


def _show(configuration: Configuration) -> int:
    data = configuration.settings.model_dump(mode="json")
    for name in export_settings(configuration.settings)["secrets_omitted"]:
        head, _, key = name.partition(".")
        if key:
            data[head][key] = HIDDEN
    print(json.dumps(data, indent=2))
    return 0


def _validate(configuration: Configuration) -> int:
    settings = configuration.settings
    served = settings.models
    if settings.data_dir is not None:
        served = tuple(KeptModels(settings.data_dir).served(settings))
    names = ", ".join(model.name for model in served)
    print(f"the settings are good; models: {names}")
    return 0


def _exported(configuration: Configuration) -> dict[str, Any]:
    settings = configuration.settings
    os.environ.update(settings.environment)
    commits, loose = known_commits(settings.models, settings.hub_cache)
    for name in loose:
        print(
            f"appliance: not pinned to a commit, as no download of it is at hand: {name}",
            file=sys.stderr,
        )
    if settings.data_dir is not None and models_file(settings.data_dir).exists():
        print(
            f"appliance: left out: what {models_file(settings.data_dir)} says of models that were"
            " added and removed at run time",
            file=sys.stderr,
        )
    return export_settings(settings, commits)


def _change(data: dict[str, Any], change: str) -> None:
    """Set one value at a path such as ``models.0.dtype``.

    Raises:
        SettingsFault: There is no such place.
    """
    path, equals, text = change.partition("=")
    if not equals or not path:
        raise SettingsFault([f"--set {change}: write NAME=VALUE, such as port=8081"])
    try:
        change_setting(data, path, _value(text))
    except LookupError as error:
        raise SettingsFault([f"--set {change}: {error.args[0]}"]) from None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
