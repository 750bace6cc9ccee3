# SPDX-License-Identifier: Apache-2.0
"""Requests whose meaning depends on the model: to no route of their own, and Vertex AI's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import msgspec

from appliance.bodies import parse_body
from appliance.engine.inputs import Inputs
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.engine.types import Answer, ModelKind, Timings
from appliance.errors import InvalidRequest, TooManyInputs
from compat.tei.answers import TeiVertexResponse
from compat.tei.errors import NothingGiven
from compat.tei.requests import (
    TeiEmbedRequest,
    TeiModelRequest,
    TeiPredictRequest,
    TeiRerankRequest,
    TeiSimilarityRequest,
    TeiTextsRequest,
    TeiVertexRequest,
)
from compat.tei.scores import predict, rerank
from compat.tei.tasks import Task
from compat.tei.vectors import embed, embed_all, embed_sparse, similarity

__all__ = [
    "EMBED",
    "EMBED_ALL",
    "EMBED_SPARSE",
    "PREDICT",
    "RERANK",
    "SIMILARITY",
    "Ask",
    "Together",
    "ask_by_kind",
    "vertex",
]

AT_ONCE = 32
"""Instances of one request of Vertex AI's that are worked on at the same time."""

Body = TypeVar("Body", bound=msgspec.Struct)


class Ask(Generic[Body]):
    """One kind of request.

    Args:
        body: What it consists of.
        task: Makes its work.

    Attributes:
        decoder: Reads it.
        task: Makes its work.
    """

    def __init__(
        self, body: type[Body], task: Callable[[Engine, ServedModel, Body], Task[Any]]
    ) -> None:
        self.decoder = msgspec.json.Decoder(body)
        self.task = task

    def parse(self, engine: Engine, model: ServedModel, body: bytes) -> Task[Any]:
        """The work of a request that is not parsed yet.

        Raises:
            InvalidRequest: It cannot be.
        """
        return self.task(engine, model, parse_body(body, self.decoder))


EMBED = Ask(TeiEmbedRequest, embed)
EMBED_ALL = Ask(TeiTextsRequest, embed_all)
EMBED_SPARSE = Ask(TeiTextsRequest, embed_sparse)
SIMILARITY = Ask(TeiSimilarityRequest, similarity)
PREDICT = Ask(TeiPredictRequest, predict)
RERANK = Ask(TeiRerankRequest, rerank)

_BY_KIND: dict[ModelKind, Ask[Any]] = {
    "embedding": EMBED,
    "sparse": EMBED_SPARSE,
    "classifier": PREDICT,
    "reranker": RERANK,
}
_peek = msgspec.json.Decoder(TeiModelRequest)


def ask_by_kind(kind: ModelKind, body: bytes) -> Ask[Any]:
    """What a request to no route of its own is.

    Args:
        kind: Of the model.
        body: The request.

    Raises:
        InvalidRequest: It is no JSON object.
    """
    inputs = parse_body(body, _peek).inputs
    # TEI is told by its variable TASK to compare sentences; here their shape tells.
    if kind == "embedding" and isinstance(inputs, msgspec.Raw) and bytes(inputs).startswith(b"{"):
        return SIMILARITY
    return _BY_KIND[kind]


@dataclass(frozen=True, slots=True)
class Together:
    """The answers to several requests that came as one.

    Attributes:
        answers: The answers.
        tokens: Of all of them.
        timings: Of all of them.
    """

    answers: Sequence[Answer]
    tokens: int
    timings: Timings

    @property
    def numbers(self) -> int:
        """Numbers of all of them."""
        return sum(answer.numbers for answer in self.answers)


def vertex(
    engine: Engine, model: ServedModel, kind: ModelKind, asked: TeiVertexRequest
) -> Task[Any]:
    """``/vertex``: several requests as one.

    Raises:
        InvalidRequest: There is none, there are too many, or one of them cannot be.
    """
    limit = model.settings.max_client_batch_size
    count = len(asked.instances)
    if not count:
        raise NothingGiven("instances")
    if count > limit:
        raise TooManyInputs(
            f"instances has {count} items, but at most {limit} are allowed in one request.",
            count=count,
            limit=limit,
            param="instances",
        )
    tasks = [_instance(engine, model, kind, bytes(instance)) for instance in asked.instances]
    slots = asyncio.Semaphore(AT_ONCE)

    async def work_on(task: Task[Any]) -> Answer:
        async with slots:
            return cast("Answer", await task.work())

    async def work() -> Together:
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(work_on(task)) for task in tasks]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        answers = [done.result() for done in running]
        tokens = sum(answer.tokens for answer in answers)
        return Together(answers, tokens, Timings.of_parts([answer.timings for answer in answers]))

    def render(result: Together) -> bytes:
        pairs = zip(tasks, result.answers, strict=True)
        written = [msgspec.Raw(task.render(answer)) for task, answer in pairs]
        return msgspec.json.encode(TeiVertexResponse(written))

    items: Any = [item for task in tasks for item in task.inputs.items]
    return Task(Inputs(items, field="instances"), work, cast("Any", render))


def _instance(engine: Engine, model: ServedModel, kind: ModelKind, body: bytes) -> Task[Any]:
    """One of them. What ranks texts looks like nothing else, so that TEI tries that first."""
    if kind == "reranker":
        try:
            return RERANK.parse(engine, model, body)
        except InvalidRequest:
            return PREDICT.parse(engine, model, body)
    return _BY_KIND[kind].parse(engine, model, body)
