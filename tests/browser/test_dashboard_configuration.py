# SPDX-License-Identifier: Apache-2.0
"""The configuration, changed by its form, carried to other instances, and cloned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser.conftest import Watch
from tests.browser.dashboard import Opener, clipboard, expect, row, section
from tests.conftest import REAL_MODEL, RunningServer, run_process

SECRET = "planted-secret-of-the-hub"
ENVIRONMENT = {"APPLIANCE_PROJECT": "from-outside", "APPLIANCE_HF_TOKEN": SECRET}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    """With settings from flags, variables and, once something is saved, the kept file."""
    flags = ("--data-dir", str(folder), "--turn-seconds", "0.4", "--queue", "gpu", "--route", "/ai")
    with run_process(*flags, environment=ENVIRONMENT) as running:
        yield running


def form(open_page: Opener, server: RunningServer) -> Any:
    page = open_page(f"{server.url}/dashboard")
    page.locator("#settings-groups summary").first.wait_for()
    return page


def setting(page: Any, name: str) -> Any:
    """A setting's row, found as its reader would find it."""
    page.get_by_label("Find a setting").fill(name)
    found = page.locator(f'#settings [data-param="{name}"]')
    expect(found).to_be_visible()
    return found


def told(server: RunningServer) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{server.url}/api/config/schema").json()
    return answer


def test_every_setting_has_a_field_and_its_meaning(
    server: RunningServer, open_page: Opener
) -> None:
    page = form(open_page, server)
    known = told(server)
    names = set(known["schema"]["properties"]) - {"secrets_omitted"}
    rows = page.locator("#settings-groups > .group > .group-body > .setting")
    assert set(rows.evaluate_all("rows => rows.map((one) => one.dataset.param)")) == names
    for name in ("auth", "cors_allow_origins", "environment", "drain_timeout_seconds"):
        meaning = known["schema"]["properties"][name]["description"]
        expect(setting(page, name)).to_contain_text(meaning.split("`")[0].split("\n")[0])


def test_endpoints_and_examples_are_told_by_the_route(
    server: RunningServer, open_page: Opener
) -> None:
    page = open_page(f"{server.url}/ai/dashboard")
    for path in ("/ai/dashboard", "/dashboard"):
        page.goto(server.url + path)
        endpoint = row(page, REAL_MODEL).locator(".endpoint code")
        expect(endpoint).to_have_text(f"/ai/{REAL_MODEL}/v1/embeddings")
        expect(page.locator("#example-code")).to_contain_text(f"{server.url}/ai/v1/embeddings")
        page.get_by_role("button", name="Run it").click()
        expect(page.locator("#result")).to_contain_text("200 OK")
        instance = page.locator('#settings-groups > .group[data-title="Instance"]')
        for name, value in (("queue", "gpu"), ("route", "/ai")):
            expect(instance.locator(f'[data-param="{name}"] input')).to_have_value(value)
    root = "import('/dashboard/static/api.js').then(({ publicRoot }) => publicRoot('{}').href)"
    for url in ("https://ai.example.com", "https://ai.example.com/team/embeddings"):
        assert page.evaluate(root.replace("{}", url)) == f"{url}/"


def test_what_is_set_elsewhere_is_locked_and_secrets_are_not_shown(
    server: RunningServer, open_page: Opener
) -> None:
    page = form(open_page, server)
    project = setting(page, "project")
    expect(project).to_contain_text("set by APPLIANCE_PROJECT")
    expect(project.locator("input")).to_be_disabled()
    expect(project.locator("input")).to_have_value("from-outside")
    expect(setting(page, "turn_seconds")).to_contain_text("set by --turn-seconds")
    secret = setting(page, "hf_token")
    expect(secret).to_contain_text("Set. Secrets are never shown.")
    expect(secret.locator("input")).to_have_count(0)
    assert SECRET not in page.content()


def test_faults_are_told_at_their_field_while_it_is_filled_in(
    server: RunningServer, open_page: Opener
) -> None:
    page = form(open_page, server)
    field = setting(page, "drain_timeout_seconds")
    field.locator("input").fill("-1")
    expect(field.locator(".fault")).not_to_be_empty()
    expect(field.locator("input")).to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(field.locator("input")).to_be_focused()
    field.locator("input").fill("7")
    expect(field.locator(".fault")).to_be_empty()
    other = setting(page, "cors_allow_origins")
    other.locator("textarea").fill("https://app.example.com\nno origin")
    expect(other.locator(".fault")).to_contain_text("is no origin")
    page.get_by_role("button", name="Discard").click()
    expect(page.locator("#save-bar")).to_be_hidden()
    assert told(server)["values"]["cors_allow_origins"] == []


def test_a_change_is_saved_and_holds_after_a_restart(
    server: RunningServer, open_page: Opener, folder: Path
) -> None:
    page = form(open_page, server)
    setting(page, "drain_timeout_seconds").locator("input").fill("7.5")
    pairs = setting(page, "environment")
    pairs.get_by_role("button", name="Add a pair").click()
    pairs.get_by_label("environment, name").fill("COLOUR")
    pairs.get_by_label("environment, value").fill('blue, or "red"')
    expect(page.locator("#save-text")).to_have_text("2 changes: drain_timeout_seconds, environment")
    page.get_by_role("button", name="Save", exact=True).click()
    notice = page.locator("#configuration-notice")
    expect(notice).to_contain_text("From the next start on: environment, drain_timeout_seconds.")
    expect(page.locator("#save-bar")).to_be_hidden()
    kept = {"drain_timeout_seconds": 7.5, "environment": {"COLOUR": 'blue, or "red"'}}
    with run_process("--data-dir", str(folder)) as next_start:
        values = told(next_start)["values"]
        assert {name: values[name] for name in kept} == kept
        page.goto(f"{next_start.url}/dashboard")
        expect(setting(page, "drain_timeout_seconds")).to_contain_text("saved here")
        page.goto("about:blank")


def test_models_change_at_once(server: RunningServer, open_page: Opener) -> None:
    page = form(open_page, server)
    models = setting(page, "models")
    models.locator("summary").first.click()
    models.locator('[data-param="models.0.aliases"] textarea').fill("text-embedding-3-small\nsmall")
    models.locator('[data-param="models.0.normalize"] select').select_option("false")
    models.get_by_role("button", name="Add a model").click()
    fault = models.locator('[data-param="models.1.model"] .fault')
    expect(fault).not_to_be_empty()
    models.locator('[data-param="models.1.model"] input').fill("embedded:all-MiniLM-L6-v2")
    models.locator('[data-param="models.1.name"] input').fill("second")
    models.locator('[data-param="models.1.eager"] input').uncheck()
    expect(fault).to_be_empty()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#configuration-notice")).to_contain_text("In force now: models.")
    expect(row(page, "second")).to_be_visible()
    assert server.embed(model="small", input="a").status_code == 200
    assert {model["id"] for model in httpx.get(f"{server.url}/v1/models").json()["data"]} >= {
        REAL_MODEL,
        "second",
    }


def test_other_changes_leave_models_that_were_added_by_hand(
    server: RunningServer, open_page: Opener
) -> None:
    added = {"model": "embedded:all-MiniLM-L6-v2", "name": "by-hand", "eager": False}
    assert httpx.post(f"{server.url}/api/models", json=added).status_code == 201
    page = form(open_page, server)
    setting(page, "model_wait_seconds").locator("input").fill("31")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#configuration-notice")).to_contain_text("model_wait_seconds")
    assert httpx.get(f"{server.url}/api/models/by-hand").status_code == 200
    assert httpx.delete(f"{server.url}/api/models/by-hand").status_code in (200, 202)


def exported(page: Any, tmp_path: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_an_export_is_imported_by_another_instance(
    server: RunningServer, open_page: Opener, tmp_path: Path
) -> None:
    page = form(open_page, server)
    path = exported(page, tmp_path)
    expect(page.locator("#configuration-notice")).to_contain_text("hf_token")
    config = json.loads(path.read_text(encoding="utf-8"))
    assert SECRET not in path.read_text(encoding="utf-8")
    assert "hf_token" in config["secrets_omitted"]
    config.update(name="imported", drain_timeout_seconds=9, secrets_omitted=[])
    del config["data_dir"]
    path.write_text(json.dumps(config), encoding="utf-8")
    with run_process("--data-dir", str(tmp_path / "other")) as other:
        page.goto(f"{other.url}/dashboard")
        page.get_by_label("Configuration file").set_input_files(path)
        panel = page.locator("#configuration-panel")
        changes = panel.get_by_role("row")
        expect(changes.filter(has_text="drain_timeout_seconds")).to_have_text(
            "drain_timeout_seconds309"
        )
        expect(changes.filter(has_text='"imported"')).to_have_count(1)
        panel.get_by_role("button", name="Save it").click()
        expect(page.locator("#configuration-notice")).to_contain_text("name")
        expect(panel).to_be_empty()
        page.goto("about:blank")
    with run_process("--data-dir", str(tmp_path / "other")) as again:
        status = httpx.get(f"{again.url}/api/status").json()
        assert status["instance"]["name"] == "imported"
        assert told(again)["values"]["drain_timeout_seconds"] == 9


def test_a_bad_file_is_refused(server: RunningServer, open_page: Opener, tmp_path: Path) -> None:
    page = form(open_page, server)
    bad = tmp_path / "bad.json"
    bad.write_text('{"name": "<b>x</b>", "prot": 1, "models": [{"model": "a", "dtype": "int3"}]}')
    page.get_by_label("Configuration file").set_input_files(bad)
    panel = page.locator("#configuration-panel")
    expect(panel).to_contain_text("prot:")
    expect(panel).to_contain_text("models.0.dtype:")
    expect(panel.get_by_role("button", name="Save it")).to_have_count(0)
    panel.get_by_role("button", name="Cancel").click()
    bad.write_text("no JSON")
    page.get_by_label("Configuration file").set_input_files(bad)
    expect(page.locator("#configuration-notice")).to_have_text("bad.json is not JSON.")


def test_a_clone_starts_by_the_command_that_is_told(
    server: RunningServer, open_page: Opener, tmp_path: Path
) -> None:
    page = form(open_page, server)
    page.get_by_role("button", name="Clone").click()
    panel = page.locator("#configuration-panel")
    panel.get_by_label("Name").fill("its clone")
    panel.get_by_label("Port").fill("70000")
    panel.get_by_role("button", name="Download").click()
    expect(panel.get_by_role("alert")).to_contain_text("port")
    panel.get_by_label("Port").fill("0")
    panel.get_by_label("data_dir").fill(str(tmp_path / "clone-data"))
    with page.expect_download() as download:
        panel.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "its-clone.json"
    download.value.save_as(tmp_path / "its-clone.json")
    panel.get_by_role("button", name="Copy the command").click()
    expect(panel.get_by_text("Copied")).to_be_visible()
    command = clipboard(page)
    assert command == "APPLIANCE_HF_TOKEN=YOUR_VALUE appliance serve --config its-clone.json"
    program = f"{sys.executable} -m appliance config show"
    done = subprocess.run(
        ["bash", "-c", command.replace("appliance serve", program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["name"], shown["port"]) == ("its clone", 0)
    assert shown["data_dir"] == str(tmp_path / "clone-data")


@pytest.fixture(scope="module")
def forgetful() -> Iterator[RunningServer]:
    """A server that keeps nothing."""
    with run_process() as running:
        yield running


def test_where_nothing_is_kept_nothing_is_saved(
    forgetful: RunningServer, open_page: Opener, watch: Watch
) -> None:
    page = form(open_page, forgetful)
    expect(page.locator("#settings-keeps")).to_contain_text("started without data_dir")
    setting(page, "drain_timeout_seconds").locator("input").fill("5")
    save = section(page, "Configuration").get_by_role("button", name="Save", exact=True)
    expect(save).to_be_disabled()
