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
from appliance.config_command import (
    add_clone_flags,
    add_remote_flags,
    import_configuration,
    run_config_command,
    take_arguments,
)
from appliance.configuration import Configuration, load_settings, read_configuration
from appliance.faults import SettingsFault
from appliance.settings import Settings
from appliance.settings_reference import describe_settings, settings_schema
from appliance.settings_sources import add_settings_flags
from appliance.tei_start import add_tei_flags, take_tei_flags

__all__ = ["main"]

EXIT_BAD_SETTINGS = 2

Result = TypeVar("Result")

_MODELS_ACTIONS = {
    "list": "list the models",
    "load": "bring a model's weights to its device",
    "offload": "park a model's weights in RAM or on disk",
    "unload": "give back all that a model takes",
}

_CONFIG_ACTIONS = {
    "show": "print the settings in force, secrets hidden",
    "validate": "check the settings and say what is wrong",
    "export": "print a file that starts an equal instance",
    "clone": "print such a file with some settings changed",
}

_TOKEN_ACTIONS = {
    "create": "create a token and print its secret, once",
    "list": "list the tokens, without their secrets",
    "revoke": "revoke a token: it opens nothing any more",
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
    _add_serve(commands)
    _add_embed(commands)
    _add_models(commands)
    _add_token(commands)
    _add_config(commands)
    parsed = parser.parse_args(arguments)
    code: int = parsed.run(parsed)
    return code


def _add_serve(commands: Any) -> None:
    text = "serve models over HTTP"
    parser = commands.add_parser("serve", help=text, description=text.capitalize() + ".")
    flags = add_settings_flags(parser)
    add_tei_flags(parser)

    def run(parsed: argparse.Namespace) -> int:
        configuration = _configuration_or_none(flags, parsed)
        return EXIT_BAD_SETTINGS if configuration is None else _serve(configuration)

    parser.set_defaults(run=run)


def _add_config(commands: Any) -> None:
    config = commands.add_parser("config", help="show, check and move settings")
    actions = config.add_subparsers(metavar="ACTION", required=True)
    for action, text in _CONFIG_ACTIONS.items():
        _add_config_action(actions, action, text)
    _add_import(actions)
    schema = actions.add_parser("schema", help="describe every setting")
    schema.add_argument("--format", choices=("json", "markdown"), default="json")
    schema.set_defaults(run=_schema)


def _add_config_action(actions: Any, action: str, text: str) -> None:
    parser = actions.add_parser(action, help=text, description=text.capitalize() + ".")
    if action in ("export", "clone"):
        add_remote_flags(parser)
    if action == "clone":
        add_clone_flags(parser)
    flags = add_settings_flags(parser)
    if action in ("show", "validate"):
        add_tei_flags(parser)

    def run(parsed: argparse.Namespace) -> int:
        arguments = take_arguments(parsed, action)
        configuration = _configuration_or_none(flags, parsed)
        if configuration is None:
            return EXIT_BAD_SETTINGS
        code = _told(lambda: run_config_command(arguments, configuration))
        return EXIT_BAD_SETTINGS if code is None else code

    parser.set_defaults(run=run)


def _add_import(actions: Any) -> None:
    text = "have a running server keep such a file, and serve its models at once"
    parser = actions.add_parser("import", help=text, description=text.capitalize() + ".")
    parser.add_argument("file", metavar="FILE", type=Path, help="JSON file; -: standard input")
    _add_server_flags(parser)

    def run(parsed: argparse.Namespace) -> int:
        settings = _told(partial(load_settings, config=parsed.config))
        code = None if settings is None else _told(lambda: import_configuration(parsed, settings))
        return EXIT_BAD_SETTINGS if code is None else code

    parser.set_defaults(run=run)


def _add_server_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base-url", metavar="URL", help="the server; unset: where the settings have it listen"
    )
    parser.add_argument("--api-key", metavar="KEY", help="unset: the settings' first")
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON file with settings")


def _add_embed(commands: Any) -> None:
    text = "embed a whole file, without a server"
    parser = commands.add_parser("embed", help=text, description=text.capitalize() + ".")
    add_embed_flags(parser)
    flags = add_settings_flags(parser)

    def run(parsed: argparse.Namespace) -> int:
        arguments = take_embed_arguments(parsed)
        configuration = _configuration_or_none(flags, parsed)
        if configuration is None:
            return EXIT_BAD_SETTINGS
        settings = configuration.settings
        os.environ.update(settings.environment)
        # After the line above, as for the server; and no other command needs pyarrow.
        if arguments.ray is not None:
            from appliance.bulk.ray_command import embed_with_ray

            return embed_with_ray(settings, arguments)
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
        _add_server_flags(parser)
        parser.add_argument("--json", action="store_true", help="print the server's answer itself")
        parser.set_defaults(run=_models, action=action)


def _models(parsed: argparse.Namespace) -> int:
    settings = _told(partial(load_settings, config=parsed.config))
    if settings is None:
        return EXIT_BAD_SETTINGS
    # Not at the top: no other command needs rich and httpx.
    from appliance.models_command import run_models_command

    return run_models_command(parsed, settings)


def _add_token(commands: Any) -> None:
    text = "create, list and revoke tokens, in the store that the settings name"
    parser = commands.add_parser("token", help=text, description=text.capitalize() + ".")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for action, text in _TOKEN_ACTIONS.items():
        parser = actions.add_parser(action, help=text, description=text.capitalize() + ".")
        if action == "create":
            _add_token_flags(parser)
        if action == "revoke":
            parser.add_argument("id", metavar="ID", help="as `token list` shows it")
        parser.add_argument("--data-dir", type=Path, metavar="DIR", help="as the setting data_dir")
        parser.add_argument("--config", type=Path, metavar="FILE", help="JSON file with settings")
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.set_defaults(run=_token, action=action)


def _add_token_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="what you call it")
    parser.add_argument(
        "--scope",
        action="append",
        choices=("embed", "admin"),
        help="what it opens; can be repeated; admin includes embed (default: embed)",
    )
    parser.add_argument(
        "--model", action="append", help="a model it is good for; can be repeated (default: all)"
    )
    parser.add_argument("--expires-in", metavar="TIME", help="such as 90m, 12h or 30d")
    for kind in ("requests", "tokens"):
        parser.add_argument(
            f"--{kind}-per-minute", type=int, metavar="N", help=f"most {kind} within a minute"
        )


def _token(parsed: argparse.Namespace) -> int:
    settings = _told(partial(load_settings, config=parsed.config))
    if settings is None:
        return EXIT_BAD_SETTINGS
    if parsed.data_dir is not None:
        settings = settings.model_copy(update={"data_dir": parsed.data_dir})
    # Not at the top: no other command needs the database's libraries.
    from appliance.token_command import run_token_command

    return run_token_command(parsed, settings)


def _configuration_or_none(
    flags: CliSettingsSource[Settings], parsed: argparse.Namespace
) -> Configuration | None:
    config = parsed.config
    del parsed.config  # every attribute that is left is a flag of a setting
    del parsed.run
    tei_flags = take_tei_flags(parsed)
    return _told(lambda: read_configuration(flags(parsed_args=parsed), config, tei_flags))


def _told(read: Callable[[], Result]) -> Result | None:
    """What was read; ``None`` if it cannot be, and why has been printed."""
    try:
        return read()
    except SettingsFault as error:
        for fault in error.faults:
            print(f"appliance: {fault}", file=sys.stderr)
        return None


def _serve(configuration: Configuration) -> int:
    os.environ.update(configuration.settings.environment)
    # After the line above, so that the variables reach libraries which read them at import.
    from appliance.server import serve

    code = _told(lambda: serve(configuration))
    return EXIT_BAD_SETTINGS if code is None else code


def _schema(parsed: argparse.Namespace) -> int:
    if parsed.format == "markdown":
        print(describe_settings(), end="")
    else:
        print(json.dumps(settings_schema(), indent=2))
    return 0
