# SPDX-License-Identifier: Apache-2.0
"""The words that a model wants before a text: "query: ", or a whole instruction.

As in sentence-transformers, a model's files name its prompts, one of them may be the default, and
the text of the prompt goes before each input as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from appliance.engine.types import EmbedOptions
from appliance.errors import InvalidRequest
from appliance.settings import ModelSettings

__all__ = ["NO_PROMPT", "Prompt", "choose_prompt"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """The words that go before each text of a request.

    Attributes:
        text: The words.
        tokens: Tokens they take up at the start of a text, special tokens before them too.
    """

    text: str
    tokens: int


NO_PROMPT = Prompt("", 0)

# The names that models give to the prompt for each kind of input, the first found being meant; of
# the first two the same as sentence-transformers' encode_query and encode_document look for.
_NAMES = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
    "classification": ("classification", "Classification"),
    "clustering": ("clustering", "Clustering"),
}


def choose_prompt(
    prompts: Mapping[str, str],
    default_name: str | None,
    model: ModelSettings,
    options: EmbedOptions,
) -> str:
    """Find the prompt for one request; empty if there is none.

    Args:
        prompts: The model's own prompts by name.
        default_name: Name of the one to use where nothing is said.
        model: May add prompts, replace them, and name another default.
        options: What the request says.

    Raises:
        InvalidRequest: The request names an unknown prompt, or says it in two ways.
    """
    given = [
        name
        for name in ("prompt", "prompt_name", "input_type")
        if getattr(options, name) is not None
    ]
    if len(given) > 1:
        raise InvalidRequest(
            f"{given[0]} and {given[1]} exclude each other; send one of them.", param=given[1]
        )
    if options.prompt is not None:
        return options.prompt
    known = {**prompts, **(model.prompts or {})}
    if options.input_type is not None:
        return next((known[name] for name in _NAMES[options.input_type] if name in known), "")
    if options.prompt_name is not None:
        if options.prompt_name not in known:
            names = ", ".join(repr(name) for name in known) or "none"
            raise InvalidRequest(
                f"The model has no prompt called {options.prompt_name!r}; it has: {names}.",
                param="prompt_name",
            )
        return known[options.prompt_name]
    return known.get(model.default_prompt_name or default_name or "", "")
