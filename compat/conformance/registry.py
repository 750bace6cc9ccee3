# SPDX-License-Identifier: Apache-2.0
"""Cases and the clients they belong to."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from compat.conformance.target import Target

__all__ = ["Case", "Cases", "Check", "Client", "Group", "NotInstalled", "library"]

Check = Callable[[Target], object]
"""A case's function. It raises where the server fails it; a coroutine is run to its end."""


class Group(StrEnum):
    """What a case rests on."""

    OPENAI = "openai"
    """The API as OpenAI documents it."""

    EXTENSION = "extension"
    """What this project adds to it."""

    AUTH = "auth"
    """Bearer keys; needs one that the server knows."""

    TEI = "tei"
    """The routes of Hugging Face's text-embeddings-inference."""

    OLLAMA = "ollama"
    """Ollama's routes for embeddings."""

    COHERE = "cohere"
    """Cohere's routes for embeddings."""

    RERANK = "rerank"
    """Routes that sort texts by a question; needs the name of a model that does."""


class NotInstalled(Exception):
    """The client is not at hand. The message is the command that installs it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One expectation of one client.

    Attributes:
        client: Name of the client.
        name: Name within the client's cases.
        group: What the case rests on.
        about: The expectation in a sentence.
        check: Tells whether it is met.
    """

    client: str
    name: str
    group: Group
    about: str
    check: Check

    @property
    def id(self) -> str:
        """What ``--only`` is matched against."""
        return f"{self.client}/{self.name}"


class Cases:
    """A list of cases that functions join by decoration.

    Args:
        client: Name of the client that they belong to.
        group: Their group, unless one says otherwise.
    """

    def __init__(self, client: str, group: Group = Group.OPENAI) -> None:
        self._client = client
        self._group = group
        self._cases: list[Case] = []

    def __iter__(self) -> Iterator[Case]:
        return iter(self._cases)

    def __call__(self, check: Check) -> Check:
        """Add a function under its own name, told by its docstring."""
        self._add(check, self._group)
        return check

    def of(self, group: Group) -> Callable[[Check], Check]:
        """Add a function to another group than its neighbours'."""

        def add(check: Check) -> Check:
            self._add(check, group)
            return check

        return add

    def _add(self, check: Any, group: Group) -> None:
        name = check.__name__.replace("_", "-")
        about = (check.__doc__ or "").partition("\n")[0]
        self._cases.append(Case(self._client, name, group, about, check))


@dataclass(frozen=True, slots=True)
class Client:
    """A program or library that speaks to the server.

    Attributes:
        name: Its name in the table.
        cases: What is expected of the server on its behalf.
        installed: Tells whether it is at hand.
        install: The command that installs it.
        calls: What of it the cases call, for a table.
        version: The package that it is and its version, for a table.
    """

    name: str
    cases: Sequence[Case]
    installed: Callable[[], bool]
    install: str
    calls: str
    version: Callable[[], str]

    def placeholder(self) -> Case:
        """The one case that stands for all while the client is not installed."""
        return Case(self.name, "*", Group.OPENAI, "The client is installed.", self._tell)

    def _tell(self, target: Target) -> None:  # noqa: ARG002  # the signature of a check
        raise NotInstalled(self.install)


def library(name: str) -> Any:
    """Import a client library at its first use.

    Untyped on purpose: some of these libraries have no types, others take a type checker minutes.
    """
    return importlib.import_module(name)
