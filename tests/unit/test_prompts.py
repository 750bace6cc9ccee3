# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from appliance.engine.prompts import choose_prompt
from appliance.engine.types import EmbedOptions
from appliance.errors import InvalidRequest
from appliance.settings import ModelSettings

PROMPTS = {"query": "find: ", "passage": "fact: "}


def choose(default: str | None = None, *, of_model: Any = (), **options: Any) -> str:
    settings = ModelSettings(model="m", **dict(of_model))
    return choose_prompt(PROMPTS, default, settings, EmbedOptions(**options))


def test_nothing_said_means_no_prompt() -> None:
    assert choose() == ""


def test_the_models_default_holds_where_nothing_is_said() -> None:
    assert choose("passage") == "fact: "


def test_the_setting_beats_the_models_default() -> None:
    assert choose("passage", of_model={"default_prompt_name": "query"}) == "find: "


def test_a_prompt_is_chosen_by_its_name() -> None:
    assert choose(prompt_name="query") == "find: "


def test_the_requests_own_words_are_taken_as_they_are() -> None:
    assert choose("passage", prompt="say: ") == "say: "


def test_an_empty_prompt_switches_the_default_off() -> None:
    assert choose("passage", prompt="") == ""


@pytest.mark.parametrize(("kind", "prompt"), [("query", "find: "), ("document", "fact: ")])
def test_a_kind_of_input_finds_the_models_name_for_it(kind: str, prompt: str) -> None:
    assert choose(input_type=kind) == prompt


@pytest.mark.parametrize("name", ["clustering", "Clustering"])
def test_a_task_is_found_by_its_name(name: str) -> None:
    settings = ModelSettings(model="m", prompts={name: "group: "})
    assert choose_prompt({}, None, settings, EmbedOptions(input_type="clustering")) == "group: "


def test_a_kind_of_input_that_the_model_has_no_prompt_for_adds_nothing() -> None:
    settings = ModelSettings(model="m")
    assert choose_prompt({}, None, settings, EmbedOptions(input_type="query")) == ""


def test_settings_add_prompts_and_replace_them() -> None:
    of_model = {"prompts": {"query": "seek: ", "title": "name: "}}
    assert choose(of_model=of_model, prompt_name="query") == "seek: "
    assert choose(of_model=of_model, prompt_name="title") == "name: "
    assert choose(of_model=of_model, prompt_name="passage") == "fact: "


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidRequest, match="'query', 'passage'") as refused:
        choose(prompt_name="title")
    assert refused.value.param == "prompt_name"


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": "", "prompt_name": "query"},
        {"prompt": "", "input_type": "query"},
        {"prompt_name": "query", "input_type": "query"},
    ],
)
def test_a_prompt_said_in_two_ways_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="exclude each other"):
        choose(**options)
