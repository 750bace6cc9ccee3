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
from appliance.model_settings import is_hub_name
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
    _add_command(commands, "serve", "serve models over HTTP", _serve)
    _add_embed(commands)
    _add_models(commands)
    _add_token(commands)
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
    commits, loose = _commits(settings)
    data = export_settings(settings, commits)
    print(json.dumps(data, indent=2))
    for name in data["secrets_omitted"]:
        print(f"appliance: left out, a secret: {name}", file=sys.stderr)
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
    return 0


def _commits(settings: Settings) -> tuple[dict[str, str], list[str]]:
    """The commit of each model of the hub, by its name, and the models without a known one."""
    of_the_hub = [model for model in settings.models if is_hub_name(model.model)]
    if not of_the_hub:
        return {}, []
    os.environ.update(settings.environment)
    # After the line above: the variables may say where the hub's cache is.
    from appliance.engine.hub import commit_at_hand

    found = {
        model.name: commit_at_hand(model.model, model.revision, settings.hub_cache)
        for model in of_the_hub
    }
    known = {name: commit for name, commit in found.items() if commit is not None}
    return known, [name for name in found if name not in known]


def _schema(parsed: argparse.Namespace) -> int:
    if parsed.format == "markdown":
        print(describe_settings(), end="")
    else:
        print(json.dumps(settings_schema(), indent=2))
    return 0
