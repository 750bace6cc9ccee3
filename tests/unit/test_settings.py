# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from appliance.configuration import load_settings
from appliance.settings import ModelSettings, Settings


def models_of(settings: Settings) -> list[str]:
    return [model.model for model in settings.models]


def test_nothing_set_serves_the_embedded_model_on_loopback() -> None:
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert [model.name for model in settings.models] == ["all-MiniLM-L6-v2"]


@pytest.mark.parametrize(
    "written",
    [
        "a,b/c",
        " a , b/c ,",
        '["a", "b/c"]',
        '[{"model": "a"}, "b/c"]',
        'a,{"model": "b/c"}',
        '{"model": "a"}, {"model": "b/c"}',
    ],
)
def test_models_may_be_words_or_json_in_one_string(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPLIANCE_MODELS", written)
    assert models_of(Settings()) == ["a", "b/c"]


def test_one_object_is_a_list_of_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_MODELS", '{"model": "a", "pooling": "cls"}')
    (model,) = Settings().models
    assert (model.model, model.pooling) == ("a", "cls")


def test_nested_variables_set_one_field_of_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_MODELS__0__MODEL", "a/b")
    monkeypatch.setenv("APPLIANCE_MODELS__0__POOLING", "cls")
    monkeypatch.setenv("APPLIANCE_MODELS__1__MODEL", "c")
    first, second = Settings().models
    assert (first.model, first.pooling) == ("a/b", "cls")
    assert (second.model, second.pooling) == ("c", None)


def test_models_by_number_come_in_the_order_of_their_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(11):
        monkeypatch.setenv(f"APPLIANCE_MODELS__{number}__MODEL", f"m{number}")
    assert models_of(Settings()) == [f"m{number}" for number in range(11)]


@pytest.mark.parametrize("written", ["one, two", '["one", "two"]'])
def test_keys_may_be_separated_by_commas_or_be_json(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPLIANCE_API_KEYS", written)
    assert Settings().api_keys == (SecretStr("one"), SecretStr("two"))


def test_further_variables_are_a_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_ENVIRONMENT", '{"OMP_NUM_THREADS": "2"}')
    assert Settings().environment == {"OMP_NUM_THREADS": "2"}


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_PORT", "")
    assert Settings().port == 8080


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("BAAI/bge-small-en-v1.5", "BAAI/bge-small-en-v1.5"),
        ("embedded:all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("/models/mine", "mine"),
        ("./mine/", "mine"),
        ("~/mine", "mine"),
    ],
)
def test_the_served_name_follows_from_the_model(model: str, name: str) -> None:
    assert ModelSettings(model=model).name == name


def test_a_folder_at_hand_gives_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert ModelSettings(model="outer/inner").name == "inner"


def test_a_name_that_is_set_stands() -> None:
    assert ModelSettings(model="a/b", name="mine").name == "mine"


@pytest.mark.parametrize(
    "name", ["a b", "a?b", "a#b", "a%b", "/a", "a/", "a/b/c", " a", "api/x", "docs/x"]
)
@pytest.mark.parametrize("where", ["name", "aliases"])
def test_a_name_that_cannot_stand_in_a_url_is_refused(name: str, where: str) -> None:
    fields: dict[str, Any] = {where: (name,) if where == "aliases" else name}
    with pytest.raises(ValidationError, match="name"):
        ModelSettings(model="m", **fields)


@pytest.mark.parametrize(
    "models",
    [
        [{"model": "a"}, {"model": "b", "name": "a"}],
        [{"model": "a"}, {"model": "b", "aliases": ["a"]}],
        [{"model": "a", "aliases": ["x"]}, {"model": "b", "aliases": ["x"]}],
        [{"model": "a", "aliases": ["a"]}],
    ],
)
def test_two_models_of_one_name_are_refused(models: Any) -> None:
    with pytest.raises(ValidationError, match="two models answer to"):
        Settings(models=models)


def test_no_model_at_all_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        Settings(models=())


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_a_device_is_known(device: str) -> None:
    assert ModelSettings(model="m", device_map=device).device_map == device


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0"])
def test_a_device_of_another_kind_is_refused(device: str) -> None:
    with pytest.raises(ValidationError, match="device_map"):
        ModelSettings(model="m", device_map=device)


def test_nested_variables_add_to_the_models_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "settings.json"
    config.write_text('{"models": ["a/b", {"model": "c/d", "pooling": "mean"}]}')
    monkeypatch.setenv("APPLIANCE_MODELS__1__POOLING", "cls")
    models = load_settings(config=config).models
    assert [(model.model, model.pooling) for model in models] == [("a/b", None), ("c/d", "cls")]


def test_idle_models_are_parked_in_one_place() -> None:
    with pytest.raises(ValidationError, match="automatic_cpu_offload and disk_swap are both on"):
        Settings(automatic_cpu_offload=True, disk_swap=True)


def test_a_report_without_an_interval_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="last_action_report_interval_seconds"):
        Settings(last_action_file=tmp_path / "file")


@pytest.mark.parametrize("seconds", [-2, -0.5, float("inf"), float("nan")])
def test_a_time_to_keep_a_model_is_a_time_or_for_ever(seconds: float) -> None:
    with pytest.raises(ValidationError, match="keep_alive"):
        ModelSettings(model="m", keep_alive=seconds)


def test_a_pinned_model_is_kept_for_ever() -> None:
    assert ModelSettings(model="m", pinned=True).keep_alive == -1
    with pytest.raises(ValidationError, match="keep_alive does not go with it"):
        ModelSettings(model="m", pinned=True, keep_alive=5)


def test_weights_are_swapped_to_a_folder_of_the_users_own(tmp_path: Path) -> None:
    assert str(os.getuid()) in Settings().swap_folder.name
    assert Settings(swap_dir=tmp_path).swap_folder == tmp_path
