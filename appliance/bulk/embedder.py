# SPDX-License-Identifier: Apache-2.0
"""Texts of one chunk to vectors, whatever texts they are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from appliance.bulk.arguments import EmbedArguments
from appliance.bulk.chunks import MISSING, Chunk
from appliance.bulk.faults import BulkFault, CommandFault, RowFault
from appliance.engine.inputs import Inputs
from appliance.engine.service import Engine
from appliance.engine.types import EmbedOptions, FloatMatrix
from appliance.errors import ApplianceError, InputTooLong, InternalError, InvalidRequest
from appliance.settings import ModelSettings, Settings

__all__ = ["Embedded", "Embedder", "bulk_settings"]

PROBE = "The quick brown fox jumps over the lazy dog."
EVER = 1e9
"""Seconds."""


def bulk_settings(settings: Settings, model: ModelSettings) -> Settings:
    """Settings for an engine with one model and one client, whom no limit need hold back."""
    unbounded = model.model_copy(
        update={
            "max_client_batch_size": sys.maxsize,
            "max_concurrent_requests": sys.maxsize,
            "max_request_tokens": sys.maxsize,
            "max_queue_tokens": sys.maxsize,
            "max_queue_seconds": EVER,
        }
    )
    return settings.model_copy(update={"models": (unbounded,), "model_wait_seconds": EVER})


@dataclass(slots=True)
class Embedded:
    """What became of the texts of a chunk.

    Attributes:
        vectors: float32, shape ``[texts, dimensions]``; NaN where there is none.
        empty: bool, shape ``[texts]``: which have none.
        tokens: Tokens that the model saw.
        truncated: Texts that were cut.
    """

    vectors: FloatMatrix
    empty: np.typing.NDArray[np.bool_]
    tokens: int = 0
    truncated: int = 0


class Embedder:
    """The engine's one model, asked for vectors as the command wants them.

    Args:
        engine: An engine that was started with :func:`bulk_settings`.
        arguments: The command's flags.
        unit: What the input's rows are counted in.
    """

    def __init__(self, engine: Engine, arguments: EmbedArguments, unit: str) -> None:
        self._engine = engine
        self._unit = unit
        self._dimensions = 0
        self._model = engine.models[0]
        self._may_skip = arguments.on_error == "null"
        self._options = EmbedOptions(
            dimensions=arguments.dimensions,
            normalize=arguments.normalize,
            truncate=arguments.truncate,
            prompt=arguments.prompt,
            prompt_name=arguments.prompt_name,
            input_type=arguments.input_type,
        )

    async def probe(self) -> FloatMatrix:
        """Vector of a text that is always the same: float32, shape ``[dimensions]``.

        Raises:
            CommandFault: The model cannot do what was asked for.
            BulkFault: The model cannot be loaded, or fails.
        """
        options = replace(self._options, truncate=True)
        try:
            answer = await self._engine.embed(self._model, Inputs([PROBE]), options)
        except InvalidRequest as error:
            raise CommandFault(error.message) from None
        except ApplianceError as error:
            raise BulkFault(error.message) from None
        self._dimensions = answer.vectors.shape[1]
        return cast("FloatMatrix", answer.vectors[0])

    async def embed(self, chunk: Chunk) -> Embedded:
        """Embed what can be embedded. :meth:`probe` has to have been called once.

        Raises:
            RowFault: A row cannot be embedded, and is not to be left without a vector.
            BulkFault: The model fails, whatever the text.
        """
        count = len(chunk.texts)
        result = Embedded(
            np.full((count, self._dimensions), np.nan, dtype=np.float32),
            np.ones(count, dtype=np.bool_),
        )
        sound = []
        for position, text in enumerate(chunk.texts):
            if reason := _reason(text):
                self._skip(chunk, position, reason)
            else:
                sound.append(position)
        if sound:
            await self._fill(result, chunk, sound)
        return result

    async def _fill(self, result: Embedded, chunk: Chunk, positions: Sequence[int]) -> None:
        truncated: list[int] = []
        options = replace(self._options, on_truncate=truncated.append)
        texts = [cast("str", chunk.texts[position]) for position in positions]
        try:
            answer = await self._engine.embed(self._model, Inputs(texts), options)
        except (InvalidRequest, InternalError) as error:
            if len(positions) > 1:  # one bad text fails alone
                middle = len(positions) // 2
                await self._fill(result, chunk, positions[:middle])
                await self._fill(result, chunk, positions[middle:])
                return
            if isinstance(error, InternalError):
                await self.probe()  # if this fails, too, it is not the text's fault
            self._skip(chunk, positions[0], _told(error))
        except ApplianceError as error:
            raise BulkFault(error.message) from None
        else:
            result.vectors[positions] = answer.vectors
            result.empty[positions] = False
            result.tokens += answer.tokens
            result.truncated += len(truncated)

    def _skip(self, chunk: Chunk, position: int, reason: str) -> None:
        if not self._may_skip:
            raise RowFault(
                f"{self._unit} {chunk.places[position]}: {reason}; with --on-error null such rows"
                " get no vector"
            )


def _reason(text: object) -> str:
    """Why this is no text to embed; empty if it is."""
    if isinstance(text, str):
        return "" if text else "the text is empty"
    if text is None:
        return "the text is null"
    if text is MISSING:
        return "the text is missing"
    kinds = {bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return f"in place of a text there is {kinds.get(type(text), 'an object')}"


def _told(error: ApplianceError) -> str:
    if isinstance(error, InputTooLong):
        return "the text is longer than the model reads, and --no-truncate forbids to cut it"
    if isinstance(error, InternalError):
        return "the model makes no vector of the text; the log says why"
    return "the text has no token that the model knows"
