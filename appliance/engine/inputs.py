# SPDX-License-Identifier: Apache-2.0
"""From what a client sent to the ids that a model reads."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np

from appliance.engine.backend import Backend
from appliance.engine.prompts import Prompt
from appliance.engine.types import EmbedOptions, TokenArray
from appliance.engine.vocabulary import TokenVocabulary
from appliance.errors import (
    EmptyInput,
    InputTooLong,
    InvalidRequest,
    RequestTooManyTokens,
    TooManyInputs,
)
from appliance.model_settings import check_keep_alive
from appliance.settings import ModelSettings

__all__ = [
    "Inputs",
    "check_count",
    "check_dimensions",
    "check_expiry",
    "check_ids",
    "check_prompt",
    "check_total",
    "token_limit",
    "tokenize",
    "too_long",
]


CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of one request, or a run of them.

    Attributes:
        items: All of them text, or all of them lists of token ids, or, for scores only, all of
            them pairs of texts.
        single: Whether the client sent one input bare, not in a list.
        first: Position of the first item in the request.
        field: What the request calls them.
    """

    items: Sequence[str] | Sequence[Sequence[int]] | Sequence[tuple[str, str]]
    single: bool = False
    first: int = 0
    field: str = "input"

    def path(self, position: int) -> str:
        """How the item at a position of ``items`` is called in the request."""
        return self.field if self.single else f"{self.field}[{self.first + position}]"

    @property
    def estimated_tokens(self) -> int:
        """How many tokens a model will read, guessed before a tokenizer has seen them."""
        return sum(map(_estimated_tokens, self.items))

    def split(self, size: int) -> list[Inputs]:
        """Runs of at most ``size`` inputs each."""
        if len(self.items) <= size:
            return [self]
        return [
            replace(self, items=self.items[start : start + size], first=self.first + start)
            for start in range(0, len(self.items), size)
        ]


def _estimated_tokens(item: str | Sequence[int] | tuple[str, str]) -> int:
    if isinstance(item, str):
        return math.ceil(len(item) / CHARACTERS_PER_TOKEN)
    if len(item) and isinstance(item[0], str):
        return sum(map(_estimated_tokens, cast("tuple[str, str]", item)))
    return len(item)


def check_count(inputs: Inputs, model: ModelSettings) -> None:
    """Refuse no inputs, too many, or an empty one.

    Raises:
        EmptyInput: There is none, or one is empty.
        TooManyInputs: There are more than ``max_client_batch_size``.
    """
    field, count, limit = inputs.field, len(inputs.items), model.max_client_batch_size
    if not count:
        raise EmptyInput(f"{field} is an empty list; it must hold at least one text.", param=field)
    if count > limit:
        raise TooManyInputs(
            f"{field} has {count} items, but at most {limit} are allowed in one request.",
            count=count,
            limit=limit,
            param=field,
        )
    for position, item in enumerate(inputs.items):
        # Of a pair, one half may be empty.
        if not (any(item) if isinstance(item, tuple) else len(item)):
            path = inputs.path(position)
            raise EmptyInput(f"{path} is empty; it must hold at least one token.", param=path)


def check_expiry(options: EmbedOptions) -> None:
    """Refuse a time that no model can be kept for.

    Raises:
        InvalidRequest: Naming the field.
    """
    if options.keep_alive is None:
        return
    try:
        check_keep_alive(options.keep_alive)
    except ValueError as error:
        raise InvalidRequest(f"'keep_alive' is invalid: it {error}.", param="keep_alive") from None


def check_dimensions(dimensions: int | None, dimension: int) -> None:
    """Refuse vectors that are longer than the model's.

    Raises:
        InvalidRequest: Naming the field.
    """
    if dimensions is not None and not 1 <= dimensions <= dimension:
        raise InvalidRequest(
            f"dimensions is {dimensions}, but must be between 1 and {dimension} for this model.",
            param="dimensions",
        )


def check_prompt(prompt: str, inputs: Inputs, model: ModelSettings) -> None:
    """Refuse a prompt that, put before each input, makes more text than a body may hold.

    Raises:
        InvalidRequest: Naming the field.
    """
    if len(prompt) * len(inputs.items) > model.payload_limit:
        raise InvalidRequest(
            f"prompt has {len(prompt)} characters, which before each of {len(inputs.items)} inputs"
            f" makes more than the {model.payload_limit} that a request may have.",
            param="prompt",
        )


def check_total(texts: Sequence[TokenArray], model: ModelSettings, field: str = "input") -> int:
    """Count the tokens of a whole request.

    Args:
        texts: Ids of each of its texts.
        model: The model's settings.
        field: What the request calls them.

    Raises:
        RequestTooManyTokens: There are more than ``max_request_tokens``.
    """
    total = sum(len(text) for text in texts)
    if total > model.max_request_tokens:
        raise RequestTooManyTokens(
            f"Requested {total} tokens, max {model.max_request_tokens} tokens per request. Send"
            " the inputs in several requests.",
            param=field,
        )
    return total


def token_limit(backend: Backend, options: EmbedOptions) -> int:
    """Most tokens of an input: what the model reads, or less if the request says so."""
    return min(backend.max_input_tokens, options.max_tokens or sys.maxsize)


def too_long(path: str, count: int | None, limit: int) -> InputTooLong:
    """The error for an input that has more tokens than it may have.

    Args:
        path: How it is called in the request.
        count: Its tokens; ``None`` where they were not all counted.
        limit: What it may have.
    """
    # Its first words are OpenAI's: client libraries look for them.
    return InputTooLong(
        f"This model's maximum context length is {limit} tokens, but {path} has"
        f" {count or f'more than {limit}'}. Shorten it, or send truncate: true to have it cut.",
        count=count,
        limit=limit,
        param=path,
    )


def tokenize(
    inputs: Inputs,
    backend: Backend,
    model: ModelSettings,
    options: EmbedOptions,
    prompt: Prompt,
    vocabulary: TokenVocabulary,
) -> list[TokenArray]:
    """Turn inputs into ids of the model, each no longer than the model reads. Blocks.

    Args:
        inputs: What the client sent.
        backend: The model.
        model: Its settings.
        options: What the request says.
        prompt: Words to put before each text; a cut leaves them whole.
        vocabulary: For token ids that are not the model's own.

    Raises:
        InvalidRequest: An input cannot be read, or is too long and may not be cut.
    """
    may_cut = model.truncate if options.truncate is None else options.truncate
    limit = token_limit(backend, options)
    # Who wants a text's end has it read in full.
    enough = sys.maxsize if may_cut and options.truncation_direction == "left" else limit
    encode = partial(backend.tokenizer.encode_starts, enough=enough)
    if isinstance(inputs.items[0], str):
        given = cast("Sequence[str]", inputs.items)
        read = encode([prompt.text + text for text in given])
    else:
        read = _from_token_ids(inputs, backend, model, options, prompt, vocabulary, encode)
    texts = [ids for ids, _ in read]
    for position, (text, is_whole) in enumerate(read):
        if not len(text):  # white space, to a tokenizer without special tokens
            path = inputs.path(position)
            raise EmptyInput(f"{path} has no token that the model knows.", param=path)
        if len(text) <= limit:
            continue
        if not may_cut:
            raise too_long(inputs.path(position), len(text) if is_whole else None, limit)
        if options.on_truncate is not None:
            options.on_truncate(inputs.first + position)
        texts[position] = backend.tokenizer.cut(
            text, limit, options.truncation_direction, prompt.tokens
        )
    return texts


def _from_token_ids(
    inputs: Inputs,
    backend: Backend,
    model: ModelSettings,
    options: EmbedOptions,
    prompt: Prompt,
    vocabulary: TokenVocabulary,
    encode: Callable[[list[str]], list[tuple[TokenArray, bool]]],
) -> list[tuple[TokenArray, bool]]:
    encoding = options.token_encoding or model.token_ids
    lists = cast("Sequence[Sequence[int]]", inputs.items)
    if encoding == "reject":
        raise InvalidRequest(
            f"{inputs.path(0)} is a list of token ids, and this model takes text only. Send text,"
            " or say with token_encoding what the ids are: 'cl100k_base' or 'native'.",
            param=inputs.path(0),
        )
    if encoding == "native":
        if prompt.text:
            raise InvalidRequest(
                f"{inputs.path(0)} is a list of the model's own token ids, which no prompt can be"
                ' put before; put the prompt\'s ids in, and send prompt: "".',
                param=inputs.path(0),
            )
        return [(_native(ids, inputs.path(p), backend), True) for p, ids in enumerate(lists)]
    decoded = [vocabulary.decode(ids, inputs.path(p)) for p, ids in enumerate(lists)]
    return encode([prompt.text + text for text in decoded])


def _native(ids: Sequence[int], path: str, backend: Backend) -> TokenArray:
    check_ids(ids, path, backend)
    return np.array(ids, dtype=np.int64)


def check_ids(ids: Sequence[int], path: str, backend: Backend) -> None:
    """Refuse token ids that a model does not have.

    Args:
        ids: The ids.
        path: How they are called in the request.
        backend: The model.

    Raises:
        InvalidRequest: Naming them.
    """
    size = backend.vocabulary_size
    if wrong := [token for token in ids if not 0 <= token < size]:
        raise InvalidRequest(
            f"{path} holds the token id {wrong[0]}, which the model does not have: its ids are 0"
            f" to {size - 1}.",
            param=path,
        )
