# SPDX-License-Identifier: Apache-2.0
"""A Dockerfile as stages of instructions."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dockerfile_parse import DockerfileParser

__all__ = [
    "Image",
    "Instruction",
    "Stage",
    "assignments",
    "expand",
    "needed",
    "read_stages",
    "split_flags",
]

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_FLAG = re.compile(r"--[a-z-]+=\S+\s+")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        name: In capitals.
        value: What follows, lines joined.
        line: Where it begins, from 1.
    """

    name: str
    value: str
    line: int


@dataclass(frozen=True)
class Stage:
    """What stands from one ``FROM`` to the next.

    Attributes:
        name: What follows ``AS``; empty, if nothing does.
        base: The image or stage that it begins with.
        steps: Its instructions, without ``FROM``.
    """

    name: str
    base: str
    steps: tuple[Instruction, ...]


@dataclass
class Image:
    """Configuration of an image, as far as the steps have come.

    Attributes:
        environment: Variables of ``ENV``.
        arguments: Variables of ``ARG``.
        folder: ``WORKDIR``.
        user: ``UID:GID``.
        labels: Those of ``LABEL``.
        volumes: Folders of ``VOLUME``.
        entrypoint: The command, in exec form.
        health: The health check's command, in exec form.
    """

    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    labels: dict[str, str] = field(default_factory=dict)
    volumes: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    @property
    def variables(self) -> dict[str, str]:
        """What a step can name; ``ENV`` goes before ``ARG``."""
        return {**self.arguments, **self.environment}

    def take(self, step: Instruction, given: Mapping[str, str]) -> None:
        """Carry out an instruction that changes no file.

        Args:
            step: One of ``ARG``, ``ENV``, ``LABEL``, ``WORKDIR``, ``USER``, ``VOLUME``,
                ``ENTRYPOINT``, ``HEALTHCHECK`` and ``EXPOSE``.
            given: Build arguments.

        Raises:
            ValueError: It is another one.
        """
        value = step.value
        match step.name:
            case "ARG":
                name, has_default, default = value.partition("=")
                if name in given or has_default:
                    self.arguments[name] = given.get(name, expand(default, self.variables))
            case "ENV":
                self.environment.update(assignments(value, self.variables))
            case "LABEL":
                self.labels.update(assignments(value, self.variables))
            case "WORKDIR":
                self.folder = str(Path(self.folder, expand(value, self.variables)))
            case "USER":
                self.user = expand(value, self.variables)
            case "VOLUME" | "ENTRYPOINT" | "HEALTHCHECK":
                self._take_list(step)
            case "EXPOSE":
                pass
            case _:
                raise ValueError(f"line {step.line}: {step.name} is not known here")

    def _take_list(self, step: Instruction) -> None:
        _, text = split_flags(step.value)
        items = json.loads(text.removeprefix("CMD").strip())
        if step.name == "VOLUME":
            self.volumes += items
        elif step.name == "ENTRYPOINT":
            self.entrypoint = items
        else:
            self.health = items


def read_stages(text: str, given: Mapping[str, str]) -> list[Stage]:
    """Read a Dockerfile.

    Args:
        text: Its content.
        given: Build arguments, which the names of base images may hold.

    Returns:
        All stages in order, those too that the last one does not need.
    """
    parser = DockerfileParser(fileobj=io.BytesIO(text.encode()))
    head: dict[str, str] = {}
    stages: list[Stage] = []
    for entry in parser.structure:
        if entry["instruction"] == "COMMENT":
            continue
        step = Instruction(entry["instruction"], entry["value"], entry["startline"] + 1)
        if step.name == "FROM":
            base, _, name = step.value.partition(" AS ")
            stages.append(Stage(name.strip(), expand(base.strip(), head), ()))
        elif stages:
            if step.name == "ARG" and step.value in head:  # which asks for the value from above
                step = replace(step, value=f"{step.value}={head[step.value]}")
            last = stages[-1]
            stages[-1] = Stage(last.name, last.base, (*last.steps, step))
        else:
            name, _, default = step.value.partition("=")
            head[name] = given.get(name, default)
    return stages


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Put values in the place of ``$NAME`` and ``${NAME}``; what is not known is empty."""
    return _VARIABLE.sub(lambda found: variables.get(found[1] or found[2], ""), text)


def assignments(text: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Read ``NAME=VALUE NAME="VALUE"``."""
    pairs = (word.partition("=") for word in shlex.split(text))
    return {name: expand(value, variables) for name, _, value in pairs}


def split_flags(text: str) -> tuple[dict[str, str], str]:
    """Flags, ``--NAME=VALUE``, and what follows them; of several of one name, the last."""
    flags = {}
    while found := _FLAG.match(text):
        name, _, value = found[0].strip().removeprefix("--").partition("=")
        flags[name] = value
        text = text[found.end() :]
    return flags, text


def needed(stages: list[Stage]) -> Iterator[Stage]:
    """The stages that the last one is made of, in order."""
    wanted = {stages[-1].name}
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted.add(stage.base)
            copies = (split_flags(step.value)[0] for step in stage.steps if step.name == "COPY")
            wanted |= {flags["from"] for flags in copies if "from" in flags}
    return (stage for stage in stages if stage.name in wanted)
