# SPDX-License-Identifier: Apache-2.0
"""What a request has the engine do, and how that is written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from appliance.engine.inputs import Inputs
from appliance.engine.served import ServedModel
from appliance.engine.types import Answer, EmbedOptions, TruncationDirection
from appliance.settings import ModelSettings
from compat.tei.requests import TeiRequest

__all__ = ["Task", "cuts_by_default", "options_of"]

Result = TypeVar("Result", bound=Answer)


@dataclass(frozen=True, slots=True)
class Task(Generic[Result]):
    """One request's work.

    Attributes:
        inputs: What is read.
        work: Has the engine do it.
        render: Writes the answer, as JSON.
    """

    inputs: Inputs
    work: Callable[[], Awaitable[Result]]
    render: Callable[[Result], bytes]

    @property
    def characters(self) -> int:
        """Characters of the inputs; of token ids, their number."""
        return sum(map(_characters, self.inputs.items))


def _characters(item: str | Sequence[int] | tuple[str, str]) -> int:
    if isinstance(item, tuple):
        return sum(map(len, cast("tuple[str, str]", item)))
    return len(item)


def cuts_by_default(settings: ModelSettings) -> bool:
    """Whether long texts are cut where a request does not say: TEI does, unless told."""
    return settings.truncate if "truncate" in settings.model_fields_set else True


def options_of(model: ServedModel, asked: TeiRequest, **others: Any) -> EmbedOptions:
    """What a request asks for beside its texts.

    Args:
        model: The model that it is for.
        asked: The request.
        others: Fields of the options that not every request has.
    """
    return EmbedOptions(
        truncate=cuts_by_default(model.settings) if asked.truncate is None else asked.truncate,
        truncation_direction=cast("TruncationDirection", asked.truncation_direction.lower()),
        # TEI decodes ids by the model's own tokenizer, and encodes the text again as it stands.
        token_encoding="native",  # noqa: S106
        **others,
    )
