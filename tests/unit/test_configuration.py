# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from appliance.cli import main
from appliance.configuration import load_settings
from appliance.engine.sources import locate_model
from appliance.exporting import export_settings
from appliance.faults import SettingsFault
from appliance.settings import ModelSettings, Settings
from appliance.settings_reference import describe_settings, settings_schema
from tests.fake_hub import FakeRepo, run_hub, use_endpoint


def write(folder: Path, content: object) -> Path:
    path = folder / "settings.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def show(capsys: pytest.CaptureFixture[str], *flags: object) -> Any:
    code = main(["config", "show", *map(str, flags)])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def faults(capsys: pytest.CaptureFixture[str], *flags: object) -> list[str]:
    """What ``config validate`` says on bad settings, line by line."""
    code = main(["config", "validate", *map(str, flags)])
    out, err = capsys.readouterr()
    assert code == 2, out
    lines = err.splitlines()
    assert all(line.startswith("appliance: ") for line in lines)
    return [line.removeprefix("appliance: ") for line in lines]


def test_flag_beats_variable_beats_file_beats_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, {"port": 1, "host": "file", "log_level": "debug"})
    monkeypatch.setenv("APPLIANCE_PORT", "2")
    monkeypatch.setenv("APPLIANCE_HOST", "variable")
    found = show(capsys, "--config", config, "--port", 3)
    assert (found["port"], found["host"], found["log_level"]) == (3, "variable", "debug")
    assert found["drain_timeout_seconds"] == 30.0


def test_the_file_may_be_named_by_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPLIANCE_CONFIG", str(write(tmp_path, {"port": 7})))
    assert load_settings().port == 7


def test_the_flag_for_the_file_beats_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPLIANCE_CONFIG", "/nowhere")
    assert load_settings(config=write(tmp_path, {"port": 7})).port == 7


def test_nested_variables_keep_the_spelling_of_what_they_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("APPLIANCE_ENVIRONMENT__OMP_NUM_THREADS", "2")
    assert load_settings().environment == {"OMP_NUM_THREADS": "2"}


def test_an_unknown_key_of_the_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, {"prot": 1, "models": [{"model": "a", "polling": "cls"}]})
    lines = faults(capsys, "--config", config)
    assert sorted(line.partition(":")[0] for line in lines) == ["models.0.polling", "prot"]


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("APPLIANCE_PROT", "APPLIANCE_PROT"),
        ("APPLIANCE_MODELS__0__POLLING", "models.0.polling"),
        ("APPLIANCE_PORT__X", "APPLIANCE_PORT__X"),
    ],
)
def test_an_unknown_variable_is_refused(
    variable: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "1")
    assert any(line.startswith(f"{told}: there is no such setting") for line in faults(capsys))


@pytest.mark.parametrize(
    "content", ["{", "[1]", '"text"', b"\xff\xfe"], ids=["cut off", "list", "text", "binary"]
)
def test_a_file_that_is_no_json_object_is_one_fault(
    content: str | bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "settings.json"
    config.write_bytes(content if isinstance(content, bytes) else content.encode())
    (line,) = faults(capsys, "--config", config)
    assert line.startswith(f"{config}: ")


def test_a_file_that_is_missing_is_one_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert faults(capsys, "--config", "/nowhere") == ["/nowhere: there is no such settings file"]


def test_a_bad_value_is_told_with_its_setting_and_what_is_allowed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (line,) = faults(capsys, "--port", "65536")
    assert line == "port: Input should be less than or equal to 65535 (given: '65536')"


def test_a_models_bad_value_is_one_fault(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = faults(capsys, "--models", '{"model": "a", "pooling": "clss"}')
    assert line.startswith("models.0.pooling: Input should be 'cls', 'mean'")


def test_broken_json_in_a_flag_is_one_fault(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = faults(capsys, "--models", '[{"model": "a"')
    assert line.startswith("models: not valid JSON")


def test_all_faults_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APPLIANCE_PROT", "1")
    monkeypatch.setenv("APPLIANCE_CPU_WORKERS", "0")
    config = write(tmp_path, {"hosst": "h", "models": [{"model": "a", "dtype": "int4"}]})
    lines = faults(capsys, "--config", config, "--port", "x")
    told = sorted(line.partition(":")[0] for line in lines)
    assert told == ["APPLIANCE_PROT", "cpu_workers", "hosst", "models.0.dtype", "port"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("APPLIANCE_API_KEYS", '["sk-hush'),
        ("APPLIANCE_API_KEYS", '{"k": "sk-hush"}'),
        ("APPLIANCE_API_KEY", "sk-hush"),
        ("APPLIANCE_ENVIRONMENT", '{"MY_TOKEN": ["sk-hush"]}'),
        ("APPLIANCE_ENVIRONMENT", "sk-hush"),
        ("APPLIANCE_HF_TOKEN__X", "sk-hush"),
    ],
)
def test_a_fault_tells_no_secret(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    assert "sk-hush" not in "\n".join(faults(capsys))


def test_an_export_names_the_secrets_it_leaves_out() -> None:
    settings = Settings(hf_token=SecretStr("x"), environment={"MY_TOKEN": "y"})
    assert export_settings(settings)["secrets_omitted"] == ["hf_token", "environment.MY_TOKEN"]


def test_an_import_is_refused_until_each_omitted_secret_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = Settings(hf_token=SecretStr("x"), api_keys=(SecretStr("y"),))
    config = write(tmp_path, export_settings(secret))
    with pytest.raises(SettingsFault) as refused:
        load_settings(config=config)
    told = "\n".join(refused.value.faults)
    assert "APPLIANCE_HF_TOKEN" in told
    assert "APPLIANCE_API_KEYS" in told
    monkeypatch.setenv("APPLIANCE_HF_TOKEN", "x")
    monkeypatch.setenv("APPLIANCE_API_KEYS", "y")
    assert load_settings(config=config).hf_token == SecretStr("x")
    monkeypatch.delenv("APPLIANCE_HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "x")  # which the hub's library reads itself
    assert load_settings(config=config).hf_token is None


def test_an_omitted_variable_can_be_given_as_the_refusal_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path, export_settings(Settings(environment={"MY_TOKEN": "x"})))
    with pytest.raises(SettingsFault, match="set APPLIANCE_ENVIRONMENT__MY_TOKEN"):
        load_settings(config=config)
    monkeypatch.setenv("APPLIANCE_ENVIRONMENT__MY_TOKEN", "y")
    assert load_settings(config=config).environment == {"MY_TOKEN": "y"}


TEXT = st.text(min_size=1, max_size=20)
NAMES = st.from_regex(r"[a-z][a-z0-9.-]{0,9}(/[a-z0-9.-]{1,9})?", fullmatch=True)


@given(
    host=TEXT,
    port=st.integers(0, 65535),
    wait=st.floats(0, 1e6, allow_nan=False),
    environment=st.dictionaries(st.from_regex(r"[A-J_]{1,8}", fullmatch=True), TEXT, max_size=3),
    models=st.lists(
        st.builds(
            ModelSettings,
            model=NAMES,
            pooling=st.sampled_from([None, "cls", "mean"]),
            normalize=st.sampled_from([None, True, False]),
            max_input_tokens=st.none() | st.integers(1, 10**6),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda model: model.name,
    ),
)
def test_an_export_imported_again_gives_equal_settings(
    host: str,
    port: int,
    wait: float,
    environment: dict[str, str],
    models: list[ModelSettings],
) -> None:
    settings = Settings(
        host=host,
        port=port,
        model_wait_seconds=wait,
        environment=environment,
        models=tuple(models),
    )
    with tempfile.TemporaryDirectory() as folder:
        again = load_settings(config=write(Path(folder), export_settings(settings)))
    assert again.model_dump() == settings.model_dump()


def test_an_export_pins_what_was_downloaded_to_its_commit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, repo = tmp_path / "cache", tmp_path / "repo"
    repo.mkdir()
    (repo / "config.json").write_text("{}")
    with run_hub(org__here=FakeRepo({"main": repo, "v1": repo})) as hub:
        use_endpoint(monkeypatch, hub.url)
        locate_model("org/here", revision="v1", token=None, cache=cache)
        commit = hub.repos["org/here"].commit("v1")
    capsys.readouterr()
    models = [
        {"model": "org/here", "revision": "v1", "name": "pinned"},
        {"model": "org/here", "revision": "main", "name": "loose"},
        {"model": "org/elsewhere"},
        {"model": "embedded:all-MiniLM-L6-v2"},
        {"model": str(repo)},
    ]
    config = write(tmp_path, {"models": models, "hub_cache": str(cache)})
    assert main(["config", "export", "--config", str(config)]) == 0  # with the hub gone
    shown = capsys.readouterr()
    revisions = [model.get("revision") for model in json.loads(shown.out)["models"]]
    assert revisions == [commit, "main", None, None, None]
    told = "appliance: not pinned to a commit, as no download of it is at hand: "
    assert shown.err.splitlines() == [f"{told}loose", f"{told}org/elsewhere"]


def test_the_schema_is_a_valid_json_schema_that_knows_a_good_file() -> None:
    schema = settings_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"port": 1, "models": [{"model": "a"}]}, schema)


def test_the_schema_refuses_an_unknown_key() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"prot": 1}, settings_schema())


def test_every_setting_is_described() -> None:
    table = describe_settings()
    for fields in (Settings.model_fields, ModelSettings.model_fields):
        for name, field in fields.items():
            assert f"| `{name}` |" in table
            assert field.description, name
