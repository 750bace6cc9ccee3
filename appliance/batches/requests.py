# SPDX-License-Identifier: Apache-2.0
"""The input of a batch: a request a line.

Format and codes of faults: https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from appliance.batches.records import ENDPOINT, LineError

__all__ = ["MOST_INPUTS", "MOST_REQUESTS", "Request", "Survey", "read_requests", "survey"]

MOST_REQUESTS = 50_000
MOST_INPUTS = 50_000
MOST_ERRORS = 100
"""Faults that are told of one file."""

ENVELOPE_BYTES = 1 << 20
"""What a line may have beside the body."""

_Null = msgspec.Raw(b"null")


class Request(msgspec.Struct, frozen=True):
    """One request.

    Attributes:
        custom_id: What its maker knows the answer by.
        method: Of HTTP.
        url: Path of the route that it is for.
        body: What would be posted there, not parsed yet.
    """

    custom_id: Annotated[str, msgspec.Meta(min_length=1)]
    method: str
    url: str
    body: msgspec.Raw


class _Peek(msgspec.Struct):
    """What is looked at of a body before it is its turn."""

    model: msgspec.Raw = _Null
    input: msgspec.Raw = _Null


_decoder = msgspec.json.Decoder(Request)
_peek = msgspec.json.Decoder(_Peek)
_text = msgspec.json.Decoder(str)
_items = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass
class Survey:
    """What a file has turned out to hold.

    Attributes:
        requests: How many requests.
        inputs: How many inputs, in all of them.
        models: The lines on which each model is named, no more of them than can be told of.
        errors: What is wrong with it; nothing, if it is good but for its models.
    """

    requests: int = 0
    inputs: int = 0
    models: dict[str, list[int]] = field(default_factory=dict)
    errors: list[LineError] = field(default_factory=list)

    def add(
        self, code: str, message: str, param: str | None = None, line: int | None = None
    ) -> None:
        """Note a fault, unless there are so many that one more helps nobody."""
        if len(self.errors) < MOST_ERRORS:
            self.errors.append(LineError(code, message, param, line))

    def check_models(self, known: Collection[str]) -> None:
        """Note the models that are not to be had."""
        for model, lines in self.models.items():
            if model not in known:
                message = f"The model '{model}' does not exist or you do not have access to it."
                for line in lines:
                    self.add("model_not_found", message, "body.model", line)
        self.errors.sort(key=lambda error: error.line or 0)


def survey(path: Path, most_bytes: int) -> Survey:
    """Look a file through. Blocks.

    Args:
        path: The file.
        most_bytes: Largest body of a request.

    Raises:
        OSError: It cannot be read.
    """
    found = Survey()
    seen: set[str] = set()
    for number, line in _lines(path, most_bytes + ENVELOPE_BYTES):
        found.requests += 1
        if len(line) > most_bytes + ENVELOPE_BYTES:
            message = f"This line has more than {most_bytes} bytes, the most that is read here."
            found.add("line_too_long", message, line=number)
            continue
        try:
            request = _decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            _tell(found, number, error)
            continue
        _check(found, number, request, seen)
        _count(found, number, request.body)
    _check_totals(found)
    return found


def read_requests(path: Path, skip: int = 0) -> Iterator[Request]:
    """Read a file that was found good, a line at a time. Blocks.

    Args:
        path: The file.
        skip: How many requests to leave out.

    Raises:
        OSError: It cannot be read.
    """
    for _, line in _lines(path):
        if skip:
            skip -= 1
            continue
        yield _decoder.decode(line)


def _lines(path: Path, most_bytes: int = -1) -> Iterator[tuple[int, bytes]]:
    """Lines that have something in them, and their numbers; no more of one than can be used."""
    number = 0
    with path.open("rb") as file:
        while line := file.readline(-1 if most_bytes < 0 else most_bytes + 1):
            number += 1
            rest = line
            while not rest.endswith(b"\n") and (rest := file.readline(most_bytes)):
                pass
            if not line.isspace():
                yield number, line


def _tell(found: Survey, number: int, error: Exception) -> None:
    """Say what is wrong with a line that is not a request."""
    if not isinstance(error, msgspec.ValidationError):
        found.add("invalid_json_line", "This line is not parseable as valid JSON.", line=number)
        return
    message = str(error)
    for name in Request.__struct_fields__:
        if f"missing required field `{name}`" in message:
            found.add(
                "missing_required_parameter", f"Missing required parameter: '{name}'.", name, number
            )
            return
        if f"`$.{name}`" in message:
            fault = message.partition(" - at ")[0]
            found.add("invalid_type", f"'{name}' is invalid: {fault}.", name, number)
            return
    found.add("invalid_json_line", "This line is not a JSON object.", line=number)


def _check(found: Survey, number: int, request: Request, seen: set[str]) -> None:
    if request.method != "POST":
        message = f"The method '{request.method}' is not supported; it must be 'POST'."
        found.add("invalid_method", message, "method", number)
    if request.url != ENDPOINT:
        message = f"The URL '{request.url}' does not match the endpoint of the batch, '{ENDPOINT}'."
        found.add("url_mismatch", message, "url", number)
    if request.custom_id in seen:
        message = (
            f"The custom_id '{request.custom_id[:100]}' is that of an earlier request; each must"
            " be unique."
        )
        found.add("duplicate_custom_id", message, "custom_id", number)
    seen.add(request.custom_id)


def _count(found: Survey, number: int, body: msgspec.Raw) -> None:
    """Count a body's inputs, and note its model; what is wrong in it is its own answer's matter."""
    try:
        peeked = _peek.decode(body)
    except msgspec.MsgspecError:
        return
    found.inputs += _inputs(bytes(peeked.input))
    try:
        lines = found.models.setdefault(_text.decode(peeked.model), [])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    if len(lines) < MOST_ERRORS:
        lines.append(number)


def _inputs(value: bytes) -> int:
    if not value.startswith(b"["):
        return 1
    items = _items.decode(value)
    is_one = bool(items) and bytes(items[0])[:1].isdigit()  # token ids of one text
    return 1 if is_one else len(items)


def _check_totals(found: Survey) -> None:
    if not found.requests:
        found.add("empty_file", "The file has no requests in it.")
    if found.requests > MOST_REQUESTS:
        found.add(
            "too_many_tasks",
            f"The file has {found.requests} requests, but at most {MOST_REQUESTS} are allowed.",
        )
    if found.inputs > MOST_INPUTS:
        found.add(
            "too_many_inputs",
            f"The requests have {found.inputs} inputs together, but at most {MOST_INPUTS} are"
            " allowed in one batch.",
        )
