# SPDX-License-Identifier: Apache-2.0
"""What is computed of a request that was let in, by what it asks for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from appliance.engine.admission import check_queue, check_wait, patience
from appliance.engine.asking import compute
from appliance.engine.inputs import Inputs, check_dimensions, check_total
from appliance.engine.lane import Lane
from appliance.engine.scoring import are_pairs, probabilities
from appliance.engine.served import ServedModel
from appliance.engine.types import (
    Embedding,
    EmbedOptions,
    FloatMatrix,
    Output,
    Scores,
    SparseEmbedding,
    Timings,
    TokenArray,
    TokenEmbedding,
)
from appliance.engine.vectors import finish_vectors
from appliance.engine.vocabulary import TokenVocabulary
from appliance.engine.watching import Watcher
from appliance.errors import InvalidRequest, RequestTooManyTokens, WrongModelKind

__all__ = ["Answering", "TextsRead", "check_gives", "check_unshaped", "first_set"]

Finished = TypeVar("Finished")

MOST_TOKEN_VALUES = 1 << 25
"""Values of one request's token vectors: 128 MiB, and three times as much once they are written."""

_NAMES: dict[Output, str] = {
    "dense": "embeddings",
    "sparse": "sparse embeddings",
    "tokens": "embeddings of tokens",
    "scores": "scores",
}
_KINDS = {
    "embedding": "an embedding model",
    "sparse": "a SPLADE model",
    "classifier": "a classifier",
    "reranker": "a reranker",
}


@dataclass(frozen=True, slots=True)
class TextsRead:
    """The inputs of a request as ids.

    Attributes:
        texts: Ids of each.
        tokens: Of all together.
        began: When the work on them began, by ``time.perf_counter``.
        seconds: Until they were there.
        unpooled: First tokens of each text that are read but not pooled.
        second_starts: As in :class:`~appliance.engine.jobs.Job`.
    """

    texts: Sequence[TokenArray]
    tokens: int
    began: float
    seconds: float
    unpooled: int = 0
    second_starts: Sequence[int] = ()


class Answering:
    """Has requests computed. Each of its methods is given a request that was let in.

    Args:
        vocabulary: For token ids that are not the model's own.
        watcher: Told of what happens.
    """

    def __init__(self, vocabulary: TokenVocabulary, watcher: Watcher) -> None:
        self._vocabulary = vocabulary
        self._watcher = watcher

    async def dense(
        self, model: ServedModel, lane: Lane, inputs: Inputs, options: EmbedOptions
    ) -> Embedding:
        """A vector for each input."""
        check_dimensions(options.dimensions, lane.backend.dimension)
        normalize = first_set(options.normalize, model.settings.normalize, True)
        calibration = model.calibration if options.needs_ranges else None
        if calibration is not None:
            calibration.check(options.dimensions, normalize)
        read = await self._read(model, lane, inputs, options)
        ranges = None
        if calibration is not None:
            ranges = await calibration.ranges(options.dimensions, normalize)
        finish = partial(
            finish_vectors,
            dimensions=options.dimensions,
            normalize=normalize,
            output_dtype=options.output_dtype,
            ranges=ranges,
        )
        vectors, timings = await self.computed(model, lane, read, options, "dense", finish)
        return Embedding(vectors, read.tokens, timings, ranges)

    async def sparse(
        self, model: ServedModel, lane: Lane, inputs: Inputs, options: EmbedOptions
    ) -> SparseEmbedding:
        """Values of some words for each input."""
        read = await self._read(model, lane, inputs, options)
        rows, timings = await self.computed(model, lane, read, options, "sparse", _as_it_is)
        return SparseEmbedding(rows, read.tokens, timings)

    async def of_tokens(
        self, model: ServedModel, lane: Lane, inputs: Inputs, options: EmbedOptions
    ) -> TokenEmbedding:
        """A vector for each token of each input.

        Raises:
            RequestTooManyTokens: There would be more than :data:`MOST_TOKEN_VALUES` of them.
        """
        read = await self._read(model, lane, inputs, options)
        most = MOST_TOKEN_VALUES // lane.backend.dimension
        if read.tokens > most:
            raise RequestTooManyTokens(
                f"Requested {read.tokens} tokens, max {most} tokens per request where each has a"
                " vector of its own. Send the inputs in several requests.",
                param=inputs.field,
            )
        rows, timings = await self.computed(model, lane, read, options, "tokens", _as_it_is)
        return TokenEmbedding(rows, read.tokens, timings)

    async def scores(
        self,
        model: ServedModel,
        lane: Lane,
        inputs: Inputs,
        options: EmbedOptions,
        *,
        raw: bool = False,
    ) -> Scores:
        """A score of each input for each label, or logits if ``raw``."""
        read = await self._read(model, lane, inputs, options)
        finish = _as_it_is if raw else probabilities
        rows, timings = await self.computed(model, lane, read, options, "scores", finish)
        return Scores(rows, lane.backend.card.labels, read.tokens, timings)

    async def plain(self, model: ServedModel, lane: Lane, texts: Sequence[str]) -> FloatMatrix:
        """The chain's own output for texts that no request sent."""
        options = EmbedOptions(truncate=True)
        ids, unpooled = await model.tokenize(lane.backend, Inputs(texts), options, self._vocabulary)
        _, vectors = await compute(lane, ids, unpooled, _as_it_is, "low")
        return vectors  # type: ignore[no-any-return]

    async def _read(
        self, model: ServedModel, lane: Lane, inputs: Inputs, options: EmbedOptions
    ) -> TextsRead:
        check_wait(model, lane, inputs, options.priority)
        began = time.perf_counter()
        texts: Sequence[TokenArray]
        starts: list[int] = []
        if are_pairs(inputs):
            pairs = await model.tokenize_pairs(lane.backend, inputs, options)
            texts, unpooled = [pair.ids for pair in pairs], 0
            starts = [pair.second_start for pair in pairs]
        else:
            texts, unpooled = await model.tokenize(lane.backend, inputs, options, self._vocabulary)
        tokens = check_total(texts, model.settings, inputs.field)
        return TextsRead(texts, tokens, began, time.perf_counter() - began, unpooled, starts)

    async def computed(
        self,
        model: ServedModel,
        lane: Lane,
        read: TextsRead,
        options: EmbedOptions,
        output: Output,
        finish: Callable[[Any], Finished],
    ) -> tuple[Finished, Timings]:
        """Have texts computed that were read.

        Args:
            model: The model.
            lane: Where its texts wait.
            read: The texts.
            options: What the request says.
            output: What is to be made of each text.
            finish: Makes the answer of the :data:`~appliance.engine.types.Rows`; on a worker's
                thread.

        Raises:
            Overloaded: The model's waiting room is full.
        """
        check_queue(model, lane, read.tokens)
        job, finished = await compute(
            lane,
            read.texts,
            read.unpooled,
            finish,
            options.priority,
            patience(model),
            self._watcher.trace(),
            output,
            read.second_starts,
        )
        assert job.started is not None
        assert job.finished is not None
        timings = Timings(
            tokenize=read.seconds,
            queue=job.started - job.submitted,
            forward=job.finished - job.started,
            began_to_tokenize=read.began,
            began_to_queue=job.submitted,
        )
        return finished, timings


def check_gives(model: ServedModel, output: Output) -> None:
    """Refuse to ask a model for what it does not give; what was never loaded may give anything.

    Raises:
        WrongModelKind: Saying why.
    """
    card = model.card
    if card is None or output in card.gives:
        return
    gives = " and ".join(name for other, name in _NAMES.items() if other in card.gives)
    raise WrongModelKind(
        f"The model '{model.name}' gives no {_NAMES[output]}: "
        + card.lacks.get(output, f"it is {_KINDS[card.kind]}, which gives {gives}."),
        param="model",
    )


def check_unshaped(options: EmbedOptions, output: Output) -> None:
    """Refuse what shapes vectors where something else is asked for.

    Raises:
        InvalidRequest: Naming the field.
    """
    wrong = {
        "dimensions": options.dimensions is not None,
        "normalize": options.normalize is True,
        "output_dtype": options.output_dtype != "float",
    }
    for field, is_given in wrong.items():
        if is_given:
            raise InvalidRequest(
                f"{field} does not apply to {_NAMES[output]}; leave it out.", param=field
            )


def first_set(*choices: bool | None) -> bool:
    """The first that is not ``None``; there must be one."""
    return next(choice for choice in choices if choice is not None)


def _as_it_is(rows: Any) -> Any:
    return rows
