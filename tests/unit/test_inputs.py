# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from appliance.engine.inputs import Inputs, check_count, check_total, tokenize
from appliance.engine.prompts import Prompt
from appliance.engine.types import EmbedOptions, TokenArray
from appliance.engine.vocabulary import TokenVocabulary
from appliance.errors import InputTooLong, InvalidRequest, RequestTooManyTokens
from appliance.settings import ModelSettings
from tests.fakes import END, START, VOCABULARY_SIZE, FakeBackend, FakeTokenizer, word_id

MODEL = ModelSettings(model="m")
A, B, C, D = (word_id(word) for word in "abcd")


class FakeVocabulary(TokenVocabulary):
    """Letters by their place in the alphabet."""

    def decode(self, ids: Sequence[int], param: str) -> str:
        return " ".join(chr(ord("a") + token) for token in ids)


def test_tokens_are_guessed_from_characters_and_counted_from_ids() -> None:
    assert Inputs(["abcd", "abcde", ""]).estimated_tokens == 3
    assert Inputs([[1, 2, 3], [4]]).estimated_tokens == 4


def run(
    items: Sequence[str] | Sequence[Sequence[int]],
    options: EmbedOptions | None = None,
    model: ModelSettings = MODEL,
    *,
    single: bool = False,
    limit: int = 4,
    prompt: str = "",
) -> list[list[int]]:
    texts: list[TokenArray] = tokenize(
        Inputs(items, single),
        FakeBackend(max_input_tokens=limit),
        model,
        options or EmbedOptions(),
        Prompt(prompt, FakeTokenizer().prompt_length(prompt) if prompt else 0),
        FakeVocabulary(),
    )
    assert all(text.dtype == np.int64 for text in texts)
    return [text.tolist() for text in texts]


def test_text_becomes_the_models_ids_with_its_special_tokens() -> None:
    assert run(["a b", "c"]) == [[START, A, B, END], [START, C, END]]


def test_a_prompt_goes_before_each_text() -> None:
    assert run(["b", "c"], prompt="a ") == [[START, A, B, END], [START, A, C, END]]


def test_a_prompt_goes_before_text_that_came_as_openais_ids() -> None:
    assert run([[1]], prompt="a ") == [[START, A, B, END]]


def test_a_cut_from_the_left_leaves_the_prompt_whole() -> None:
    cut = EmbedOptions(truncate=True, truncation_direction="left")
    assert run(["b c d"], cut, prompt="a ") == [[START, A, D, END]]


def test_a_prompt_cannot_go_before_native_ids() -> None:
    with pytest.raises(InvalidRequest, match="prompt"):
        run([[5]], EmbedOptions(token_encoding="native"), prompt="a ")


def test_a_text_of_just_the_limit_is_taken_whole() -> None:
    assert run(["a b"], limit=4) == [[START, A, B, END]]


def test_a_text_over_the_limit_is_refused_with_its_place() -> None:
    with pytest.raises(InputTooLong) as refused:
        run(["a", "a b c"])
    assert refused.value.param == "input[1]"
    assert refused.value.message.startswith(
        "This model's maximum context length is 4 tokens, but input[1] has 5."
    )


def test_a_bare_input_is_called_just_input() -> None:
    with pytest.raises(InputTooLong) as refused:
        run(["a b c"], single=True)
    assert refused.value.param == "input"


@pytest.mark.parametrize(
    ("by_model", "by_request", "is_cut"),
    [(True, None, True), (False, True, True), (True, False, False), (False, None, False)],
)
def test_the_request_decides_on_a_cut_before_the_model_does(
    by_model: bool, by_request: bool | None, is_cut: bool
) -> None:
    model = ModelSettings(model="m", truncate=by_model)
    options = EmbedOptions(truncate=by_request)
    if is_cut:
        assert run(["a b c"], options, model) == [[START, A, B, END]]
    else:
        with pytest.raises(InputTooLong):
            run(["a b c"], options, model)


def test_a_cut_from_the_left_keeps_the_end_of_the_text() -> None:
    options = EmbedOptions(truncate=True, truncation_direction="left")
    assert run(["a b c d"], options) == [[START, C, D, END]]


def test_a_text_that_leaves_no_token_is_refused_with_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_special_tokens(_: FakeTokenizer, texts: list[str]) -> list[TokenArray]:
        return [np.array([word_id(word) for word in text.split()], np.int64) for text in texts]

    monkeypatch.setattr(FakeTokenizer, "encode", without_special_tokens)
    with pytest.raises(InvalidRequest, match="token") as refused:
        run(["a", " "])
    assert refused.value.param == "input[1]"


def test_ids_are_taken_for_openais_and_tokenised_anew() -> None:
    assert run([[0, 1], [2]]) == [[START, A, B, END], [START, C, END]]


def test_native_ids_are_used_as_they_are() -> None:
    assert run([[5, 6, 7]], EmbedOptions(token_encoding="native")) == [[5, 6, 7]]


def test_the_models_own_setting_says_what_ids_mean() -> None:
    assert run([[5, 6]], model=ModelSettings(model="m", token_ids="native")) == [[5, 6]]


def test_the_request_says_what_ids_mean_before_the_model_does() -> None:
    model = ModelSettings(model="m", token_ids="reject")
    assert run([[0]], EmbedOptions(token_encoding="cl100k_base"), model) == [[START, A, END]]


@pytest.mark.parametrize("token", [-1, VOCABULARY_SIZE, 2**62])
def test_a_native_id_that_the_model_lacks_is_refused(token: int) -> None:
    with pytest.raises(InvalidRequest, match=f"token id {token}") as refused:
        run([[1], [2, token]], EmbedOptions(token_encoding="native"))
    assert refused.value.param == "input[1]"


def test_ids_are_refused_where_the_model_takes_text_only() -> None:
    with pytest.raises(InvalidRequest, match="takes text only"):
        run([[1]], model=ModelSettings(model="m", token_ids="reject"))


def test_runs_keep_the_place_of_each_input() -> None:
    runs = Inputs(["a", "b", "c", "d", "e"]).split(2)
    assert [list(part.items) for part in runs] == [["a", "b"], ["c", "d"], ["e"]]
    assert [part.path(0) for part in runs] == ["input[0]", "input[2]", "input[4]"]


def test_runs_of_runs_keep_the_place_of_each_input() -> None:
    _, second = Inputs(["a", "b", "c", "d", "e", "f"]).split(3)
    assert [part.path(0) for part in second.split(2)] == ["input[3]", "input[5]"]


def test_no_inputs_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="empty list"):
        check_count(Inputs([]), MODEL)


@pytest.mark.parametrize("items", [["a", ""], [[1], []]])
def test_an_empty_input_is_refused_with_its_place(
    items: Sequence[str] | Sequence[Sequence[int]],
) -> None:
    with pytest.raises(InvalidRequest, match="is empty") as refused:
        check_count(Inputs(items), MODEL)
    assert refused.value.param == "input[1]"


def test_as_many_inputs_as_allowed_pass() -> None:
    check_count(Inputs(["a"] * 2048), MODEL)


def test_one_input_more_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="2049 items, but at most 2048"):
        check_count(Inputs(["a"] * 2049), MODEL)


def test_the_tokens_of_a_request_are_counted() -> None:
    texts = [np.zeros(3, dtype=np.int64), np.zeros(4, dtype=np.int64)]
    assert check_total(texts, ModelSettings(model="m", max_request_tokens=7)) == 7


def test_more_tokens_than_a_request_may_have_are_refused() -> None:
    texts = [np.zeros(3, dtype=np.int64), np.zeros(5, dtype=np.int64)]
    with pytest.raises(RequestTooManyTokens, match="Requested 8 tokens, max 7"):
        check_total(texts, ModelSettings(model="m", max_request_tokens=7))
