# SPDX-License-Identifier: Apache-2.0
"""What may be asked of the models, and the way of each request through the engine."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

from appliance.engine.admission import check_requests
from appliance.engine.answering import Answering, check_gives, check_unshaped
from appliance.engine.inputs import Inputs, check_count, check_expiry, check_prompt
from appliance.engine.lane import Lane
from appliance.engine.lifecycle import Lifecycle
from appliance.engine.served import ServedModel
from appliance.engine.types import (
    Answer,
    Embedding,
    EmbedOptions,
    ModelCard,
    Output,
    Scores,
    SparseEmbedding,
    Token,
    TokenEmbedding,
)
from appliance.engine.watching import Watcher

__all__ = ["Requests"]

Answered = TypeVar("Answered", bound=Answer)


class Requests:
    """Has requests worked on.

    Args:
        lifecycle: Loads the models.
        answering: Has what they ask for computed.
        watcher: Told of what happens.

    Attributes:
        lifecycle: Loads and unloads the models.
        last_action: When the last request came or ended, by ``time.monotonic``.
    """

    def __init__(self, lifecycle: Lifecycle, answering: Answering, watcher: Watcher) -> None:
        self.lifecycle = lifecycle
        self.last_action = time.monotonic()
        self._answering = answering
        self._watcher = watcher

    async def embed(self, model: ServedModel, inputs: Inputs, options: EmbedOptions) -> Embedding:
        """Embed the inputs of one request.

        Raises:
            InvalidRequest: The request can never succeed as it is.
            Overloaded: The model's waiting room is full.
            ModelUnavailable: The model is loading or has failed.
        """
        return await self._answer(model, inputs, options, "dense", self._answering.dense)

    async def embed_sparse(
        self, model: ServedModel, inputs: Inputs, options: EmbedOptions
    ) -> SparseEmbedding:
        """Find the words that count for each input, and their values.

        Raises:
            WrongModelKind: The model is no SPLADE model, and has no sparse head either.
            ApplianceError: As of :meth:`embed`.
        """
        check_unshaped(options, "sparse")
        return await self._answer(model, inputs, options, "sparse", self._answering.sparse)

    async def embed_tokens(
        self, model: ServedModel, inputs: Inputs, options: EmbedOptions
    ) -> TokenEmbedding:
        """Embed each token of the inputs, special tokens and the prompt's included.

        Raises:
            WrongModelKind: The model gives no such vectors.
            ApplianceError: As of :meth:`embed`.
        """
        check_unshaped(options, "tokens")
        return await self._answer(model, inputs, options, "tokens", self._answering.of_tokens)

    async def score(
        self, model: ServedModel, inputs: Inputs, options: EmbedOptions, *, raw: bool = False
    ) -> Scores:
        """Score texts, or pairs of texts, by a model's labels.

        Args:
            model: A classifier, or a reranker, which has one label.
            inputs: Texts, pairs or lists of token ids.
            options: What the request says.
            raw: Give logits. Otherwise one label's is made a sigmoid and several a softmax, as
                text-embeddings-inference does, whatever activation the model's own files name.

        Raises:
            WrongModelKind: The model embeds texts, it does not score them.
            ApplianceError: As of :meth:`embed`.
        """
        check_unshaped(options, "scores")
        work = partial(self._answering.scores, raw=raw)
        return await self._answer(model, inputs, options, "scores", work)

    async def card(self, model: ServedModel) -> ModelCard:
        """What a model is. Loads it only if it has never been loaded.

        Raises:
            ModelUnavailable: It has never been loaded, and is loading or has failed.
        """
        if model.card is None:
            async with self.lifecycle.use(model):
                pass
        assert model.card is not None
        return model.card

    async def tokenize(
        self,
        model: ServedModel,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = True,
        prompt: str = "",
    ) -> list[list[Token]]:
        """Split texts into a model's tokens, each behind a prompt.

        Raises:
            InvalidRequest: There are too many texts or tokens, or a text is empty.
            ModelUnavailable: The model is loading or has failed.
        """
        inputs = Inputs(texts, field="inputs")
        check_count(inputs, model.settings)
        check_prompt(prompt, inputs, model.settings)
        inputs = replace(inputs, items=[prompt + text for text in texts])
        with self._counted(model):
            async with self.lifecycle.use(model) as lane:
                tokenizer = lane.backend.tokenizer
                return await model.split(tokenizer, inputs, add_special_tokens=add_special_tokens)

    async def decode(
        self, model: ServedModel, ids: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        """Turn lists of a model's token ids into texts.

        Raises:
            InvalidRequest: There are too many lists, one is empty, or the model has no such id.
            ModelUnavailable: The model is loading or has failed.
        """
        check_count(Inputs(ids, field="ids"), model.settings)
        with self._counted(model):
            async with self.lifecycle.use(model) as lane:
                backend = lane.backend
                return await model.decode(backend, ids, skip_special_tokens=skip_special_tokens)

    async def _answer(
        self,
        model: ServedModel,
        inputs: Inputs,
        options: EmbedOptions,
        output: Output,
        work: Callable[[ServedModel, Lane, Inputs, EmbedOptions], Awaitable[Answered]],
    ) -> Answered:
        """Let a request in, have it worked on, and count it."""
        self._watcher.asked(model.name)
        check_count(inputs, model.settings)
        check_expiry(options)
        check_gives(model, output)
        with self._counted(model):
            async with self.lifecycle.use(model, options.keep_alive) as lane:
                check_gives(model, output)  # what it gives may only be known now
                result = await work(model, lane, inputs, options)
        model.answered += 1
        model.tokens += result.tokens
        self._watcher.embedded(options, result)
        return result

    @contextmanager
    def _counted(self, model: ServedModel) -> Iterator[None]:
        """Count a request for a model, for as long as it is worked on.

        Raises:
            Overloaded: It has as many as it may have.
        """
        check_requests(model)
        model.requests += 1
        self.last_action = time.monotonic()
        try:
            yield
        finally:
            model.requests -= 1
            if not model.requests:
                model.changed.set()
            model.last_used = time.time()
            self.last_action = time.monotonic()
