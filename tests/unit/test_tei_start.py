# SPDX-License-Identifier: Apache-2.0
"""TEI's variables and flags reach the settings that the table says."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from appliance.cli import main
from appliance.configuration import Configuration, load_settings, read_configuration
from appliance.database_file import database_file
from appliance.exporting import export_settings
from appliance.faults import SettingsFault
from appliance.tei_variables import TEI_VARIABLES, describe_tei_variables

MODEL = "BAAI/bge-small-en-v1.5"

EXAMPLES: dict[str, tuple[str, object]] = {
    "MODEL_ID": ("intfloat/e5-small", "intfloat/e5-small"),
    "REVISION": ("refs/pr/2", "refs/pr/2"),
    "SERVED_MODEL_NAME": ("mine", "mine"),
    "DTYPE": ("float16", "float16"),
    "POOLING": ("last-token", "last_token"),
    "AUTO_TRUNCATE": ("false", False),
    "DEFAULT_PROMPT": ("find, or not: ", {"default_prompt": "find, or not: "}),
    "DEFAULT_PROMPT_NAME": ("query", "query"),
    "TOKENIZATION_WORKERS": ("3", 3),
    "MAX_CONCURRENT_REQUESTS": ("7", 7),
    "MAX_BATCH_TOKENS": ("1024", 1024),
    "MAX_BATCH_REQUESTS": ("9", 9),
    "MAX_CLIENT_BATCH_SIZE": ("32", 32),
    "PAYLOAD_LIMIT": ("2000000", 2_000_000),
    "HF_API_TOKEN": ("hf_old", SecretStr("hf_old")),
    "HF_TOKEN": ("hf_new", SecretStr("hf_new")),
    "HUGGINGFACE_HUB_CACHE": ("/data", Path("/data")),
    "HOSTNAME": ("127.0.0.1", "127.0.0.1"),
    "PORT": ("8081", 8081),
    "API_KEY": ("one,key", (SecretStr("one,key"),)),
    "CORS_ALLOW_ORIGIN": ("https://app.example.com", ("https://app.example.com",)),
    "JSON_OUTPUT": ("true", True),
    "OTLP_ENDPOINT": ("http://collector:4318", "http://collector:4318"),
    "OTLP_SERVICE_NAME": ("embedder", "embedder"),
}
"""For each variable that sets something, a value and what the setting becomes."""

IGNORED = {
    "PROMETHEUS_PORT": "9000",
    "UDS_PATH": "/tmp/tei",
    "DISABLE_SPANS": "true",
    "DENSE_PATH": "2_Dense_1024",
    "USE_FLASH_ATTENTION": "True",
    "TASK": "sentence-similarity",
    "AIP_HTTP_PORT": "8080",
    "AIP_PREDICT_ROUTE": "/predict",
    "AIP_HEALTH_ROUTE": "/health",
}
BY_NAME = {variable.name: variable for variable in TEI_VARIABLES}


@pytest.fixture(autouse=True)
def _no_variables_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*BY_NAME, "OTEL_EXPORTER_OTLP_PROTOCOL"):
        monkeypatch.delenv(name, raising=False)


def at(configuration: Configuration, path: str) -> object:
    """The value in force at a path such as ``models.0.dtype``."""
    value: Any = configuration.settings
    for part in path.split("."):
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    return value


def by_flags(*flags: str) -> Any:
    """The settings that flags make, as ``config show`` prints them."""
    out = StringIO()
    with redirect_stdout(out):
        assert main(["config", "show", *flags]) == 0
    return json.loads(out.getvalue())


def faults(*flags: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["config", "validate", *flags]) == 2
    return [line.removeprefix("appliance: ") for line in capsys.readouterr().err.splitlines()]


def test_there_is_an_example_for_every_row() -> None:
    assert {v.name for v in TEI_VARIABLES if v.setting is not None} == EXAMPLES.keys()
    assert {v.name for v in TEI_VARIABLES if v.setting is None} == IGNORED.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_variable_reaches_its_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, expected = EXAMPLES[name]
    setting = BY_NAME[name].setting or ""
    monkeypatch.setenv("MODEL_ID", MODEL)
    before = at(read_configuration(), setting) if name != "MODEL_ID" else MODEL
    monkeypatch.setenv(name, value)
    found = read_configuration()
    assert at(found, setting) == expected != before
    assert found.sources[setting.partition(".")[0]] == "tei"


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_flag_reaches_its_setting(name: str) -> None:
    value, expected = EXAMPLES[name]
    row = BY_NAME[name]
    model = () if name == "MODEL_ID" else ("--model-id", MODEL)
    shown = by_flags(*model, row.flag, value)
    for part in (row.setting or "").split("."):
        shown = shown[int(part)] if isinstance(shown, list) else shown[part]
    if isinstance(expected, tuple):
        expected = [str(each) for each in expected]
    elif isinstance(expected, SecretStr | Path):
        expected = str(expected)
    assert shown == expected


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_flag_beats_the_variable_of_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, expected = EXAMPLES[name]
    monkeypatch.setenv(name, "no such value")
    model = {} if name == "MODEL_ID" else {"MODEL_ID": MODEL}
    found = read_configuration(tei_flags={**model, name: value})
    assert at(found, BY_NAME[name].setting or "") == expected


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "MODEL_ID"])
def test_without_a_model_a_variable_changes_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = load_settings().model_dump()
    monkeypatch.setenv(name, EXAMPLES[name][0])
    assert load_settings().model_dump() == nothing


def test_without_a_model_a_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert faults("--dtype", "float16", capsys=capsys) == [
        "--dtype: it goes with --model-id or MODEL_ID"
    ]


def test_switches_need_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTO_TRUNCATE", "false")
    shown = by_flags("--model-id", MODEL, "--auto-truncate", "--json-output", "--disable-spans")
    assert (shown["models"][0]["truncate"], shown["log_json"]) == (True, True)
    assert by_flags("--model-id", MODEL, "--auto-truncate=false")["models"][0]["truncate"] is False


def test_the_short_flag_of_the_port_works() -> None:
    assert by_flags("--model-id", MODEL, "-p", "8081")["port"] == 8081


def test_origins_may_be_given_one_by_one() -> None:
    origins = ("https://a.example", "https://b.example")
    flags = [each for origin in origins for each in ("--cors-allow-origin", origin)]
    assert by_flags("--model-id", MODEL, *flags)["cors_allow_origins"] == list(origins)


def test_defaults_are_those_that_its_users_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    found = read_configuration()
    settings = found.settings
    assert (settings.host, settings.port, settings.auth) == ("0.0.0.0", 3000, "none")
    assert settings.any_model_name
    assert settings.te_metrics
    assert settings.public_metrics
    (model,) = settings.models
    assert (model.model, model.name, model.truncate) == (MODEL, MODEL, True)
    assert found.sources["models"] == "tei"
    assert found.sources["port"] == "tei_defaults"


@pytest.mark.parametrize(
    "variable", ["API_KEY", "APPLIANCE_API_KEYS", "APPLIANCE_DATABASE_URL", "APPLIANCE_AUTH"]
)
def test_the_door_is_open_only_where_nothing_is_said_of_it(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    said = {"APPLIANCE_DATABASE_URL": "postgresql://db/a", "APPLIANCE_AUTH": "auto"}
    monkeypatch.setenv(variable, said.get(variable, "secret"))
    assert load_settings().auth == "auto"


@pytest.mark.parametrize(
    ("kept", "auth"),
    [
        ("CREATE TABLE points (step)", "none"),
        ("CREATE TABLE tokens (id)", "none"),
        ("CREATE TABLE tokens AS SELECT 1 AS id", "auto"),
        (None, "auto"),  # what cannot be read may hold tokens
    ],
)
def test_the_door_is_not_open_where_tokens_were_made(
    kept: str | None, auth: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    monkeypatch.setenv("APPLIANCE_DATA_DIR", str(tmp_path))
    assert load_settings().auth == "none"
    if kept is None:
        database_file(tmp_path).write_bytes(b"no database" * 100)
    else:
        with closing(sqlite3.connect(database_file(tmp_path))) as connection:
            connection.execute(kept)
            connection.commit()
    assert load_settings().auth == auth


def test_its_defaults_do_not_beat_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    config = tmp_path / "settings.json"
    config.write_text('{"port": 7, "auth": "required", "any_model_name": false}')
    settings = load_settings(config=config)
    assert (settings.port, settings.auth, settings.any_model_name) == (7, "required", False)
    assert settings.host == "0.0.0.0"


def test_its_model_takes_the_place_of_those_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    config = tmp_path / "settings.json"
    config.write_text('{"models": [{"model": "a", "name": "b", "pooling": "cls"}, "c"]}')
    (model,) = load_settings(config=config).models
    assert (model.model, model.name, model.pooling) == (MODEL, MODEL, None)


def test_own_flags_beat_own_variables_beat_its_flags_beat_its_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOSTNAME", "10.0.0.1")
    assert by_flags("--model-id", MODEL)["host"] == "10.0.0.1"
    assert by_flags("--model-id", MODEL, "--hostname", "10.0.0.2")["host"] == "10.0.0.2"
    monkeypatch.setenv("APPLIANCE_HOST", "10.0.0.3")
    assert by_flags("--model-id", MODEL, "--hostname", "10.0.0.2")["host"] == "10.0.0.3"
    flags = ("--model-id", MODEL, "--hostname", "10.0.0.2", "--host", "10.0.0.4")
    assert by_flags(*flags)["host"] == "10.0.0.4"


def test_own_variables_add_to_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    monkeypatch.setenv("APPLIANCE_MODELS__0__KEEP_ALIVE", "60")
    (model,) = load_settings().models
    assert (model.model, model.keep_alive, model.truncate) == (MODEL, 60, True)


def test_own_models_beat_its_model_and_the_log_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    monkeypatch.setenv("APPLIANCE_MODELS", "a,b")
    found = read_configuration()
    assert [model.model for model in found.settings.models] == ["a", "b"]
    assert "another than MODEL_ID names" in found.notes[0]


def test_a_containers_name_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    monkeypatch.setenv("HOSTNAME", "3f1c2a9b7d55")
    assert load_settings().host == "0.0.0.0"
    assert by_flags("--hostname", "localhost")["host"] == "localhost"


def test_empty_variables_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    for name in EXAMPLES.keys() - {"MODEL_ID"}:
        monkeypatch.setenv(name, "")
    assert load_settings().auth == "none"
    monkeypatch.setenv("MODEL_ID", "")
    assert load_settings().port == 8080


def test_the_newer_of_two_tokens_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    monkeypatch.setenv("HF_TOKEN", "new")
    monkeypatch.setenv("HF_API_TOKEN", "old")
    assert load_settings().hf_token == SecretStr("new")


def test_a_prompt_is_made_the_default_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    monkeypatch.setenv("DEFAULT_PROMPT", "find: ")
    (model,) = load_settings().models
    assert model.default_prompt_name == "default_prompt"
    monkeypatch.setenv("DEFAULT_PROMPT_NAME", "query")
    with pytest.raises(SettingsFault, match="set one of the two"):
        load_settings()


def test_a_collector_is_told_by_grpc_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    monkeypatch.setenv("OTLP_ENDPOINT", "http://collector:1234")
    assert load_settings().environment == {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    assert load_settings().environment == {}


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("DTYPE", "foo", "Input should be 'auto', "),
        ("POOLING", "first-token", "Input should be 'cls', 'mean', "),
        ("MAX_BATCH_TOKENS", "x", "Input should be a valid integer"),
        ("MAX_CLIENT_BATCH_SIZE", "0", "Input should be greater than 0"),
        ("AUTO_TRUNCATE", "maybe", "Input should be a valid boolean"),
        ("PORT", "99999", "Input should be less than or equal to 65535"),
        ("CORS_ALLOW_ORIGIN", "app", "'app' is no origin"),
        ("OTLP_ENDPOINT", "collector", "it must be a URL such as"),
        ("SERVED_MODEL_NAME", "a b", "name 'a b' cannot stand in a URL"),
        ("MODEL_ID", "a/b/c", "name 'a/b/c' has more than one slash"),
    ],
)
def test_a_fault_names_the_variable_or_the_flag(
    name: str,
    value: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    monkeypatch.setenv(name, value)
    (line,) = faults(capsys=capsys)
    assert line.startswith(f"{name}: {told}")
    monkeypatch.delenv(name)
    row = BY_NAME[name]
    (line,) = faults("--model-id", MODEL, row.flag, value, capsys=capsys)
    own = f"{row.setting}: " if row.has_own_flag else f"{row.flag}: "
    assert line.startswith(own + told)


def test_a_fault_of_an_own_setting_keeps_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    monkeypatch.setenv("DTYPE", "float16")
    monkeypatch.setenv("APPLIANCE_MODELS__0__DTYPE", "foo")
    (line,) = faults(capsys=capsys)
    assert line.startswith("models.0.dtype: ")


def test_keys_stand_in_no_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    monkeypatch.setenv("API_KEY", "sk-hush")
    monkeypatch.setenv("HF_TOKEN", "sk-hush")
    monkeypatch.setenv("DTYPE", "foo")
    assert "sk-hush" not in str(faults(capsys=capsys)) + str(read_faults())


def read_faults() -> SettingsFault:
    with pytest.raises(SettingsFault) as raised:
        read_configuration()
    return raised.value


@pytest.mark.parametrize("name", IGNORED)
def test_what_means_nothing_here_is_named_with_its_reason(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    plain = read_configuration()
    assert len(plain.notes) == 1
    monkeypatch.setenv(name, IGNORED[name])
    found = read_configuration()
    assert found.settings.model_dump() == plain.settings.model_dump()
    [_, line] = found.notes
    assert line.startswith(f"of no meaning here: {name} (")
    if BY_NAME[name].has_flag:
        monkeypatch.delenv(name)
        flagged = read_configuration(tei_flags={name: IGNORED[name]})
        assert flagged.notes[1].startswith(f"of no meaning here: {BY_NAME[name].flag} (")


def test_an_export_starts_an_equal_instance_without_the_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MODEL_ID", "DTYPE", "POOLING", "MAX_BATCH_TOKENS", "OTLP_ENDPOINT"):
        monkeypatch.setenv(name, EXAMPLES[name][0])
    settings = load_settings()
    config = tmp_path / "clone.json"
    config.write_text(json.dumps(export_settings(settings)))
    for name in BY_NAME:
        monkeypatch.delenv(name, raising=False)
    assert load_settings(config=config).model_dump() == settings.model_dump()


def test_models_cannot_be_kept_over_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ID", MODEL)
    found, wrong = read_configuration().with_kept({"models": ["a"], "port": 7})
    assert not wrong
    assert found is not None
    assert (found.settings.port, found.settings.models[0].model) == (7, MODEL)
    assert found.overridden == {"models": "tei"}


def test_the_table_names_every_variable() -> None:
    table = describe_tei_variables()
    for variable in TEI_VARIABLES:
        assert f"| `{variable.name}` |" in table
