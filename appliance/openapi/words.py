# SPDX-License-Identifier: Apache-2.0
"""Docstrings as the document's words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

import docstring_parser

from appliance.errors import ApplianceError

__all__ = [
    "PATH_PARAMETERS",
    "describe_class",
    "describe_errors",
    "describe_fields",
    "split_summary",
]

PATH_PARAMETERS = {
    "name": "Name or alias of a model; of one with a slash in it, what follows the slash.",
    "owner": "What precedes the slash in a model's name.",
    "wanted": "Name or alias of a model, slash included.",
    "token_id": "Id of a token.",
    "file_id": "Id of a file.",
    "batch_id": "Id of a batch.",
}

_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`")


def split_summary(docstring: str) -> tuple[str, str]:
    """The first sentence of a route's docstring, and all that follows it, in Markdown."""
    first, _, rest = _in_markdown(inspect.cleandoc(docstring)).partition("\n\n")
    sentence, _, more = " ".join(first.split()).partition(". ")
    return sentence.rstrip("."), "\n\n".join(part for part in (more, rest) if part)


def describe_class(cls: type) -> str:
    """What a type's docstring says of the whole."""
    parsed = docstring_parser.parse(_docstring(cls), style=docstring_parser.DocstringStyle.GOOGLE)
    parts = (parsed.short_description, parsed.long_description)
    return _in_markdown("\n\n".join(part for part in parts if part))


def describe_fields(cls: type) -> dict[str, str]:
    """What a type's docstring, and those of the types that it extends, say of each field."""
    told: dict[str, str] = {}
    for part in reversed(cls.__mro__):
        parsed = docstring_parser.parse(
            _docstring(part), style=docstring_parser.DocstringStyle.GOOGLE
        )
        for field in parsed.params:
            if field.args[0] == "attribute" and field.description:
                told[field.arg_name] = _in_markdown(" ".join(field.description.split()))
    return told


def describe_errors(errors: Iterable[type[ApplianceError]]) -> str:
    """What each of some errors means."""
    return " ".join(dict.fromkeys(describe_class(error).partition("\n\n")[0] for error in errors))


def _docstring(cls: type) -> str:
    return inspect.cleandoc(cls.__doc__ or "")


def _in_markdown(text: str) -> str:
    """A docstring's reStructuredText, of which little is used, as Markdown."""
    text = _ROLE.sub(r"``\1``", text).replace("``None``", "``null``")
    return text.replace("``", "`")
