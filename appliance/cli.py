# SPDX-License-Identifier: Apache-2.0
"""The ``appliance`` command."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic_settings import CliSettingsSource

from appliance import __version__
from appliance.bulk.arguments import add_embed_flags, take_embed_arguments
from appliance.configuration import (
    SettingsFault,
    add_settings_flags,
    describe_settings,
    export_settings,
    load_settings,
    settings_schema,
)
from appliance.persistence import KeptModels, models_file
from appliance.settings import Settings

__all__ = ["main"]

EXIT_BAD_SETTINGS = 2

Action = Callable[[argparse.Namespace, Settings], int]
Result = TypeVar("Result")

_MODELS_ACTIONS = {
    "list": "list the models",
    "load": "bring a model's weights to its device",
    "offload": "park a model's weights in RAM or on disk",
    "unload": "give back all that a model takes",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Command line without the program's name. Unset: ``sys.argv``.

    Returns:
        The exit code: 0, 1 where the server could not do its work, 2 for bad settings or flags.
    """
    parser = argparse.ArgumentParser(prog="appliance", description="Serve embedding models.")
    parser.add_argument("--version", action="version", version=f"appliance {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_command(commands, "serve", "serve models over HTTP", _serve)
    _add_embed(commands)
    _add_models(commands)
    config = commands.add_parser("config", help="show, check and move settings")
    actions = config.add_subparsers(metavar="ACTION", required=True)
    _add_command(actions, "show", "print the settings in force, secrets hidden", _show)
    _add_command(actions, "validate", "check the settings and say what is wrong", _validate)
    _add_command(actions, "export", "print a file that starts an equal instance", _export)
    schema = actions.add_parser("schema", help="describe every setting")
    schema.add_argument("--format", choices=("json", "markdown"), default="json")
    schema.set_defaults(run=_schema)
    parsed = parser.parse_args(arguments)
    code: int = parsed.run(parsed)
    return code


def _add_command(commands: Any, name: str, text: str, action: Action) -> None:
    parser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
    flags = add_settings_flags(parser)

    def run(parsed: argparse.Namespace) -> int:
        settings = _settings_or_none(flags, parsed)
        return EXIT_BAD_SETTINGS if settings is None else action(parsed, settings)

    parser.set_defaults(run=run)


def _add_embed(commands: Any) -> None:
    text = "embed a whole file, without a server"
    parser = commands.add_parser("embed", help=text, description=text.capitalize() + ".")
    add_embed_flags(parser)
    flags = add_settings_flags(parser)

    def run(parsed: argparse.Namespace) -> int:
        arguments = take_embed_arguments(parsed)
        settings = _settings_or_none(flags, parsed)
        if settings is None:
            return EXIT_BAD_SETTINGS
        os.environ.update(settings.environment)
        # After the line above, as for the server; and no other command needs pyarrow.
        from appliance.bulk.command import embed_file

        return embed_file(settings, arguments)

    parser.set_defaults(run=run)


def _add_models(commands: Any) -> None:
    text = "list the models of a running server, load them and put them away"
    parser = commands.add_parser("models", help=text, description=text.capitalize() + ".")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for action, text in _MODELS_ACTIONS.items():
        parser = actions.add_parser(action, help=text, description=text.capitalize() + ".")
        if action != "list":
            parser.add_argument("name", metavar="NAME", help="the model's name or alias")
        parser.add_argument(
            "--base-url", metavar="URL", help="the server; unset: where the settings have it listen"
        )
        parser.add_argument("--api-key", metavar="KEY", help="unset: the settings' first")
        parser.add_argument("--config", type=Path, metavar="FILE", help="JSON file with settings")
        parser.add_argument("--json", action="store_true", help="print the server's answer itself")
        parser.set_defaults(run=_models, action=action)


def _models(parsed: argparse.Namespace) -> int:
    settings = _told(partial(load_settings, config=parsed.config))
    if settings is None:
        return EXIT_BAD_SETTINGS
    # Not at the top: no other command needs rich and httpx.
    from appliance.models_command import run_models_command

    return run_models_command(parsed, settings)


def _settings_or_none(
    flags: CliSettingsSource[Settings], parsed: argparse.Namespace
) -> Settings | None:
    config = parsed.config
    del parsed.config  # every attribute that is left is a flag of a setting
    del parsed.run
    return _told(lambda: load_settings(flags(parsed_args=parsed), config))


def _told(read: Callable[[], Result]) -> Result | None:
    """What was read; ``None`` if it cannot be, and why has been printed."""
    try:
        return read()
    except SettingsFault as error:
        for fault in error.faults:
            print(f"appliance: {fault}", file=sys.stderr)
        return None


def _serve(_: argparse.Namespace, settings: Settings) -> int:
    os.environ.update(settings.environment)
    # After the line above, so that the variables reach libraries which read them at import.
    from appliance.server import serve

    code = _told(lambda: serve(settings))
    return EXIT_BAD_SETTINGS if code is None else code


def _show(_: argparse.Namespace, settings: Settings) -> int:
    data = settings.model_dump(mode="json")
    for name in export_settings(settings)["secrets_omitted"]:
        head, _, key = name.partition(".")
        if key:
            data[head][key] = "**********"
    print(json.dumps(data, indent=2))
    return 0


def _validate(_: argparse.Namespace, settings: Settings) -> int:
    names = ", ".join(model.name for model in settings.models)
    if settings.data_dir is not None:
        kept = _told(partial(KeptModels, settings.data_dir))
        if kept is None:
            return EXIT_BAD_SETTINGS
        names = ", ".join(model.name for model in kept.served(settings.models))
    print(f"the settings are good; models: {names}")
    return 0


def _export(_: argparse.Namespace, settings: Settings) -> int:
    data = export_settings(settings)
    print(json.dumps(data, indent=2))
    for name in data["secrets_omitted"]:
        print(f"appliance: left out, a secret: {name}", file=sys.stderr)
    if settings.data_dir is not None and models_file(settings.data_dir).exists():
        print(
            f"appliance: left out: what {models_file(settings.data_dir)} says of models that were"
            " added and removed at run time",
            file=sys.stderr,
        )
    return 0


def _schema(parsed: argparse.Namespace) -> int:
    if parsed.format == "markdown":
        print(describe_settings(), end="")
    else:
        print(json.dumps(settings_schema(), indent=2))
    return 0
