# SPDX-License-Identifier: Apache-2.0
"""What may be asked of an engine beside vectors."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from appliance.engine.inputs import Inputs
from appliance.engine.service import Engine
from appliance.engine.types import Answer, EmbedOptions, ModelKind, SparseRow, Token
from appliance.engine.watching import BatchReport, LoadReport, MoveReport
from appliance.errors import (
    EmptyInput,
    InputTooLong,
    InvalidRequest,
    RequestTooManyTokens,
    TooManyInputs,
    WrongModelKind,
)
from appliance.settings import ModelSettings, Settings
from tests.fakes import FakeBackend, FakeTokenizer, fake_sparse, fake_tokens, loading, word_id

TEXTS = ("one two two", "three", "one")
PLAIN = EmbedOptions()
START = Token(0, "[START]", special=True, start=None, stop=None)
END = Token(1, "[END]", special=True, start=None, stop=None)


class Notes:
    """A watcher that remembers the answers."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def trace(self) -> object | None:
        return None

    def asked(self, model: str) -> None: ...

    def embedded(self, options: EmbedOptions, result: Answer) -> None:
        self.answers.append(result)

    def batch_done(self, report: BatchReport) -> None: ...

    def moved(self, report: MoveReport) -> None: ...

    def loaded(self, report: LoadReport) -> None: ...


@asynccontextmanager
async def serving(
    make: Callable[[], FakeBackend] = FakeBackend, **options: Any
) -> AsyncIterator[tuple[Engine, Notes]]:
    """An engine of one model, which is loaded when it is first needed."""
    settings = Settings(models=(ModelSettings(model="fake", eager=False, **options),))
    notes = Notes()
    engine = Engine(settings, loading(lambda _: make()), watcher=notes)
    try:
        yield engine, notes
    finally:
        await engine.stop()


def of_kind(kind: ModelKind) -> Callable[[], FakeBackend]:
    return lambda: FakeBackend(kind=kind)


def assert_same_rows(found: Sequence[SparseRow], texts: Sequence[str]) -> None:
    for row, ids in zip(found, FakeTokenizer().encode(list(texts)), strict=True):
        expected = fake_sparse(ids)
        np.testing.assert_array_equal(row.indices, expected.indices)
        np.testing.assert_array_equal(row.values, expected.values)


async def test_sparse_rows_come_in_the_order_of_the_texts() -> None:
    async with serving(of_kind("sparse")) as (engine, notes):
        model = engine.models[0]
        answer = await engine.embed_sparse(model, Inputs(TEXTS), PLAIN)
        assert_same_rows(answer.rows, TEXTS)
        assert answer.tokens == model.tokens == sum(len(text.split()) + 2 for text in TEXTS)
        assert answer.numbers == 2 * 4
        assert answer.timings.forward > 0
        assert model.answered == 1
        assert notes.answers == [answer]


async def test_each_token_has_a_vector_the_prompts_too() -> None:
    async with serving() as (engine, notes):
        options = EmbedOptions(prompt="find: ")
        answer = await engine.embed_tokens(engine.models[0], Inputs(TEXTS), options)
        encoded = FakeTokenizer().encode([f"find: {text}" for text in TEXTS])
        for row, ids in zip(answer.rows, encoded, strict=True):
            np.testing.assert_array_equal(row, fake_tokens(ids))
        assert answer.tokens == sum(map(len, encoded))
        assert answer.numbers == 8 * answer.tokens
        assert notes.answers == [answer]


async def test_there_is_a_bound_to_the_vectors_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.engine.answering.MOST_TOKEN_VALUES", 8 * 10)
    async with serving() as (engine, _):
        await engine.embed_tokens(engine.models[0], Inputs(["a " * 8]), PLAIN)
        told = "Requested 11 tokens, max 10 tokens per request where each has a vector"
        with pytest.raises(RequestTooManyTokens, match=told):
            await engine.embed_tokens(engine.models[0], Inputs(["a " * 9], field="inputs"), PLAIN)


@pytest.mark.parametrize(
    ("kind", "ask", "told"),
    [
        (
            "embedding",
            "embed_sparse",
            "no sparse embeddings: it is an embedding model, which gives",
        ),
        ("sparse", "embed_tokens", "no embeddings of tokens: it is a SPLADE model, which gives"),
        ("classifier", "embed", "no embeddings: it is a classifier, which gives scores."),
        ("reranker", "embed", "no embeddings: it is a reranker, which gives scores."),
    ],
)
async def test_a_model_of_another_kind_says_what_it_gives(
    kind: ModelKind, ask: str, told: str
) -> None:
    async with serving(of_kind(kind)) as (engine, notes):
        model = engine.models[0]
        with pytest.raises(WrongModelKind, match=told) as raised:
            await getattr(engine, ask)(model, Inputs(TEXTS), PLAIN)
        assert (raised.value.status, raised.value.param) == (400, "model")
        assert not notes.answers
        assert not model.answered
        await engine.lifecycle.unload(model)
        with pytest.raises(WrongModelKind, match=told):
            await getattr(engine, ask)(model, Inputs(TEXTS), PLAIN)
        assert model.state == "unloaded"  # known by now, it is not loaded to be told so again


async def test_a_model_says_why_it_lacks_what_it_could_give() -> None:
    def make() -> FakeBackend:
        backend = FakeBackend()
        backend.lacks["sparse"] = "its sparse head is locked away."
        return backend

    async with serving(make) as (engine, _):
        with pytest.raises(WrongModelKind, match="no sparse embeddings: its sparse head is locked"):
            await engine.embed_sparse(engine.models[0], Inputs(TEXTS), PLAIN)


@pytest.mark.parametrize("ask", ["embed_sparse", "embed_tokens"])
@pytest.mark.parametrize(
    ("options", "field"),
    [
        (EmbedOptions(dimensions=4), "dimensions"),
        (EmbedOptions(normalize=True), "normalize"),
        (EmbedOptions(output_dtype="int8"), "output_dtype"),
    ],
)
async def test_what_shapes_vectors_shapes_nothing_else(
    ask: str, options: EmbedOptions, field: str
) -> None:
    async with serving() as (engine, _):
        model = engine.models[0]
        with pytest.raises(InvalidRequest, match=f"{field} does not apply") as raised:
            await getattr(engine, ask)(model, Inputs(TEXTS), options)
        assert raised.value.param == field
        assert model.state == "unloaded"  # it costs nothing


async def test_errors_name_the_field_as_the_request_does() -> None:
    async with serving(max_client_batch_size=2, max_request_tokens=40) as (engine, _):
        model = engine.models[0]

        async def refused(*texts: str) -> InvalidRequest:
            with pytest.raises(InvalidRequest) as raised:
                await engine.embed(model, Inputs(texts, field="texts"), PLAIN)
            return raised.value

        nothing, empty, many = await refused(), await refused("a", ""), await refused(*"abc")
        assert [type(error) for error in (nothing, empty, many)] == [
            EmptyInput,
            EmptyInput,
            TooManyInputs,
        ]
        assert [error.param for error in (nothing, empty, many)] == ["texts", "texts[1]", "texts"]
        assert isinstance(many, TooManyInputs)
        assert (many.count, many.limit) == (3, 2)
        long = await refused("a", "a " * 31)
        assert isinstance(long, InputTooLong)
        assert (long.count, long.limit, long.param) == (33, 32, "texts[1]")
        assert "texts[1] has 33" in long.message
        total = await refused("a " * 25, "a " * 25)
        assert (type(total), total.param) == (RequestTooManyTokens, "texts")


def test_runs_of_inputs_keep_the_name_of_the_field() -> None:
    runs = Inputs(["a", "b", "c"], field="texts").split(2)
    assert [run.path(0) for run in runs] == ["texts[0]", "texts[2]"]


def test_tokens_of_pairs_are_guessed_from_both_texts() -> None:
    assert Inputs([("a" * 4, "b" * 8), ("c", "d")]).estimated_tokens == 5
    assert Inputs(["a" * 9]).estimated_tokens == 3
    assert Inputs([[1, 2, 3], []]).estimated_tokens == 3


async def test_a_card_is_remembered_when_the_model_is_gone() -> None:
    async with serving(of_kind("sparse"), prompts={"query": "q: "}) as (engine, _):
        model = engine.models[0]
        assert model.card is None
        card = await engine.card(model)
        assert (card.kind, card.pooling, card.dimension) == ("sparse", "splade", 8)
        assert card.gives == {"dense", "sparse"}
        assert card.prompts == {"query": "q: ", "passage": "fact: "}  # as the settings have them
        await engine.lifecycle.unload(model)
        assert await engine.card(model) is card
        assert model.state == "unloaded"


async def test_texts_are_split_into_tokens() -> None:
    async with serving() as (engine, _):
        model = engine.models[0]
        (first, second) = await engine.tokenize(model, ["two words", "one"], prompt="say ")
        assert first == [
            START,
            Token(word_id("say"), "say", special=False, start=0, stop=3),
            Token(word_id("two"), "two", special=False, start=4, stop=7),
            Token(word_id("words"), "words", special=False, start=8, stop=13),
            END,
        ]
        assert len(second) == 4
        ((only,),) = await engine.tokenize(model, ["one"], add_special_tokens=False)
        assert only.text == "one"
        assert not model.answered


async def test_ids_are_turned_into_texts() -> None:
    async with serving() as (engine, _):
        model = engine.models[0]
        tokens = await engine.tokenize(model, ["two words", *["one"] * 70])
        ids = [[token.id for token in text] for text in tokens]
        assert await engine.decode(model, ids) == ["two words", *["one"] * 70]
        whole = await engine.decode(model, ids[:1], skip_special_tokens=False)
        assert whole == ["[START] two words [END]"]
        for wrong in ([-1], [3, 50_000], [2**70]):
            with pytest.raises(InvalidRequest, match=r"ids\[1\] holds the token id") as raised:
                await engine.decode(model, [[5], wrong])
            assert raised.value.param == "ids[1]"


async def test_there_are_bounds_to_what_is_split() -> None:
    async with serving(max_client_batch_size=2, max_request_tokens=20) as (engine, _):
        model = engine.models[0]
        with pytest.raises(EmptyInput, match=r"inputs\[1\] is empty"):
            await engine.tokenize(model, ["a", ""], prompt="say ")
        with pytest.raises(TooManyInputs):
            await engine.tokenize(model, ["a"] * 3)
        with pytest.raises(TooManyInputs):
            await engine.decode(model, [[5]] * 3)
        with pytest.raises(RequestTooManyTokens, match="Requested 24 tokens"):
            await engine.tokenize(model, ["a " * 10, "b " * 10])
        assert len((await engine.tokenize(model, ["longer-than-twenty-letters"]))[0]) == 3


async def test_the_event_loop_reads_no_text_itself() -> None:
    readers: set[threading.Thread] = set()

    class Noting(FakeTokenizer):
        def split(self, *args: Any, **options: Any) -> list[list[Token]]:
            readers.add(threading.current_thread())
            return super().split(*args, **options)

        def decode(self, *args: Any, **options: Any) -> list[str]:
            readers.add(threading.current_thread())
            return super().decode(*args, **options)

    def make() -> FakeBackend:
        backend = FakeBackend()
        backend.tokenizer = Noting()
        return backend

    async with serving(make) as (engine, _):
        await engine.tokenize(engine.models[0], ["a"])
        await engine.decode(engine.models[0], [[5]])
        assert readers
        assert threading.main_thread() not in readers
