# SPDX-License-Identifier: Apache-2.0
"""Scores of texts and of pairs, from a request to its answer."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from appliance.engine.inputs import Inputs
from appliance.engine.scoring import probabilities
from appliance.engine.types import EmbedOptions, FloatMatrix
from appliance.errors import EmptyInput, InputTooLong, InvalidRequest, WrongModelKind
from tests.fakes import LABELS, FakeBackend, FakeTokenizer, fake_scores
from tests.unit.test_requests import PLAIN, of_kind, serving

PAIRS = (("who is it", "nobody"), ("who is it", ""), ("", "a b c"), ("who is it", "nobody"))


def expected(
    pairs: Any, labels: int = 1, limit: int = 512, direction: Any = "right"
) -> FloatMatrix:
    """The fake model's logits."""
    rows = FakeTokenizer().encode_pairs(pairs, limit, direction)
    return np.stack([fake_scores(row.ids, labels, row.second_start) for row in rows])


async def test_pairs_are_scored_in_the_order_of_the_request() -> None:
    async with serving(of_kind("reranker")) as (engine, notes):
        model = engine.models[0]
        answer = await engine.score(model, Inputs(PAIRS), PLAIN, raw=True)
        np.testing.assert_array_equal(answer.rows, expected(PAIRS))
        assert answer.labels == LABELS["reranker"]
        assert answer.tokens == model.tokens == (4 + 3 + 3 + 4) + 4 * 3
        assert answer.numbers == len(PAIRS)
        assert answer.timings.forward > 0
        assert notes.answers == [answer]


async def test_more_pairs_than_a_tokenizer_thread_takes_stay_in_order() -> None:
    pairs = [("which", f"number {number}") for number in range(200)]
    async with serving(of_kind("reranker")) as (engine, _):
        answer = await engine.score(engine.models[0], Inputs(pairs), PLAIN, raw=True)
    np.testing.assert_array_equal(answer.rows, expected(pairs))


async def test_one_label_has_a_share_of_its_own() -> None:
    async with serving(of_kind("reranker")) as (engine, _):
        answer = await engine.score(engine.models[0], Inputs(PAIRS), PLAIN)
    np.testing.assert_allclose(answer.rows, 1 / (1 + np.exp(-expected(PAIRS))), rtol=1e-6)


async def test_several_labels_share_one() -> None:
    async with serving(of_kind("classifier")) as (engine, _):
        answer = await engine.score(engine.models[0], Inputs(PAIRS), PLAIN)
    logits = np.exp(expected(PAIRS, 3))
    np.testing.assert_allclose(answer.rows, logits / logits.sum(axis=1, keepdims=True), rtol=1e-5)
    assert answer.labels == LABELS["classifier"]


async def test_single_texts_are_scored_too_and_may_have_a_prompt() -> None:
    texts = ["one two", "three"]
    options = EmbedOptions(prompt="is it: ")
    async with serving(of_kind("classifier")) as (engine, _):
        answer = await engine.score(engine.models[0], Inputs(texts), options, raw=True)
    encoded = FakeTokenizer().encode([f"is it: {text}" for text in texts])
    np.testing.assert_array_equal(answer.rows, np.stack([fake_scores(ids, 3) for ids in encoded]))


async def test_no_prompt_goes_before_a_pair() -> None:
    options = EmbedOptions(prompt="find: ")
    async with serving(of_kind("reranker")) as (engine, _):
        answer = await engine.score(engine.models[0], Inputs(PAIRS), options, raw=True)
    np.testing.assert_array_equal(answer.rows, expected(PAIRS))


@pytest.mark.parametrize("direction", ["left", "right"])
async def test_pairs_that_are_too_long_are_cut_where_that_is_allowed(
    direction: Literal["left", "right"],
) -> None:
    pairs = [("a b", "c"), ("a b", "c d e f g h i j")]
    cut: list[int] = []
    options = EmbedOptions(
        truncate=True, truncation_direction=direction, on_truncate=cut.append, max_tokens=8
    )
    async with serving(of_kind("reranker")) as (engine, _):
        answer = await engine.score(engine.models[0], Inputs(pairs), options, raw=True)
    np.testing.assert_array_equal(answer.rows, expected(pairs, 1, 8, direction))
    assert answer.tokens == 6 + 8
    assert cut == [1]


async def test_pairs_that_are_too_long_are_refused_where_it_is_not() -> None:
    options = EmbedOptions(truncate=False, max_tokens=8)
    inputs = Inputs([("a", "b"), ("a b c", "d e f")], field="texts")
    async with serving(of_kind("reranker")) as (engine, _):
        with pytest.raises(
            InputTooLong, match=r"length is 8 tokens, but texts\[1\] has 9"
        ) as raised:
            await engine.score(engine.models[0], inputs, options)
    assert (raised.value.param, raised.value.count, raised.value.limit) == ("texts[1]", 9, 8)


async def test_a_pair_of_two_empty_texts_is_refused() -> None:
    async with serving(of_kind("reranker")) as (engine, _):
        with pytest.raises(EmptyInput) as raised:
            await engine.score(engine.models[0], Inputs([("a", ""), ("", "")]), PLAIN)
    assert raised.value.param == "input[1]"


@pytest.mark.parametrize("kind", ["embedding", "sparse"])
async def test_a_model_that_embeds_does_not_score(kind: Any) -> None:
    async with serving(of_kind(kind)) as (engine, _):
        with pytest.raises(WrongModelKind, match="gives no scores: it is"):
            await engine.score(engine.models[0], Inputs(PAIRS), PLAIN)


async def test_what_shapes_vectors_does_not_shape_scores() -> None:
    async with serving(of_kind("reranker")) as (engine, _):
        with pytest.raises(InvalidRequest, match="dimensions does not apply to scores"):
            await engine.score(engine.models[0], Inputs(PAIRS), EmbedOptions(dimensions=2))


async def test_pairs_run_beside_single_texts_of_other_requests() -> None:
    backend = FakeBackend(kind="classifier")
    async with serving(lambda: backend) as (engine, _):
        model = engine.models[0]
        pairs = await engine.score(model, Inputs(PAIRS), PLAIN, raw=True)
        texts = await engine.score(model, Inputs(["one two"]), PLAIN, raw=True)
    np.testing.assert_array_equal(pairs.rows, expected(PAIRS, 3))
    np.testing.assert_array_equal(
        texts.rows[0], fake_scores(FakeTokenizer().encode(["one two"])[0], 3)
    )
    assert set(backend.outputs) == {"scores"}


MATRICES = st.integers(1, 5).flatmap(
    lambda labels: arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.just(labels)),
        elements=st.floats(-1e4, 1e4, width=32),
    )
)


@given(MATRICES)
def test_scores_are_shares_in_the_order_of_the_logits(logits: FloatMatrix) -> None:
    shares = probabilities(logits)
    assert shares.dtype == np.float32
    assert shares.shape == logits.shape
    assert ((shares >= 0) & (shares <= 1)).all()
    if logits.shape[1] > 1:
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    order = np.argsort(logits, axis=None if logits.shape[1] == 1 else 1, kind="stable")
    along = shares.ravel()[order] if logits.shape[1] == 1 else np.take_along_axis(shares, order, 1)
    assert (np.diff(along) >= 0).all()


def test_low_scores_keep_their_digits() -> None:
    """So that documents which all score near 0 are still told apart."""
    logits = np.array([[-20.0], [-20.001]], dtype=np.float32)
    shares = probabilities(logits)
    np.testing.assert_allclose(shares, np.exp(logits.astype(np.float64)), rtol=1e-5)
    assert shares[0] > shares[1]
