# SPDX-License-Identifier: Apache-2.0
"""Models, moved and changed by hand."""

from __future__ import annotations

import threading
from contextlib import closing

from appliance.settings import ModelSettings, Settings
from tests.api.management import Fakes, api, described
from tests.browser.conftest import Watch
from tests.browser.dashboard import Opener, cell, clipboard, expect, row, section
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakeBackend, loading
from tests.unit.tickets import PATIENCE

SIZES = {"cpu": 3 * 2**20}
MODELS = (ModelSettings(model="fake/model", aliases=("small",), dtype="float32"),)


def settings(**more: object) -> Settings:
    return Settings(**{"models": MODELS, "disk_swap": True, **more})


def press(page: object, action: str, model: str = "fake/model") -> None:
    page.get_by_role("button", name=f"{action} {model}", exact=True).click()  # type: ignore[attr-defined]


def test_a_row_tells_all_of_a_model(open_page: Opener) -> None:
    with (
        run_in_thread(settings(), loading(Fakes(sizes=SIZES), SIZES)) as server,
        closing(open_page),
    ):
        assert server.embed(model="small", input="a b c").status_code == 200
        page = open_page(f"{server.url}/dashboard")
        expect(row(page, "fake/model").get_by_role("rowheader")).to_contain_text("also small")
        expect(cell(page, "fake/model", "State")).to_have_text("idle")
        expect(cell(page, "fake/model", "Weights")).to_have_text("on cpu3 MiB")
        expect(cell(page, "fake/model", "Format")).to_have_text("float32")
        expect(cell(page, "fake/model", "Queue")).to_have_text("0")
        expect(cell(page, "fake/model", "Requests")).to_have_text("1")
        expect(cell(page, "fake/model", "Tokens")).to_have_text("5")
        expect(cell(page, "fake/model", "Last used")).not_to_have_text("never")
        page.get_by_role("button", name="Copy the endpoint of fake/model").click()
        expect(row(page, "fake/model").get_by_text("Copied")).to_be_visible()
        assert clipboard(page) == f"{server.url}/fake/model/v1/embeddings"


def test_weights_are_moved_by_buttons(open_page: Opener) -> None:
    with (
        run_in_thread(settings(), loading(Fakes(sizes=SIZES), SIZES)) as server,
        closing(open_page),
    ):
        page = open_page(f"{server.url}/dashboard")
        expect(cell(page, "fake/model", "State")).to_have_text("idle")
        for action, result, told in (
            ("Offload", "swapped", "is parked"),
            ("Load", "idle", "is on its device"),
            ("Unload", "unloaded", "is unloaded"),
            ("Load", "idle", "is on its device"),
        ):
            press(page, action)
            expect(cell(page, "fake/model", "State")).to_have_text(result)
            expect(page.locator("#models-notice")).to_have_text(f"fake/model {told}.")
            assert described(server, "fake/model")["state"] == result


def test_a_button_is_busy_while_its_work_is_done_and_keeps_the_focus(open_page: Opener) -> None:
    goes_on = threading.Event()
    waits = threading.Event()

    def move(what: str) -> None:
        if what == "park":
            waits.set()
            assert goes_on.wait(PATIENCE)

    load = loading(lambda _: FakeBackend(sizes=SIZES, before_move=move), SIZES)
    with run_in_thread(settings(), load) as server, closing(open_page):
        page = open_page(f"{server.url}/dashboard")
        button = page.get_by_role("button", name="Offload fake/model")
        expect(button).not_to_have_attribute("aria-disabled", "true")
        button.click()
        try:
            assert waits.wait(PATIENCE)
            expect(button).to_have_attribute("aria-busy", "true")
            expect(page.get_by_role("button", name="Remove fake/model")).to_have_attribute(
                "aria-disabled", "true"
            )
        finally:
            goes_on.set()
        expect(cell(page, "fake/model", "State")).to_have_text("swapped")
        expect(button).to_be_focused()


def test_what_cannot_be_done_is_said(open_page: Opener, watch: Watch) -> None:
    watch.allowed.append("409")
    with run_in_thread(settings(disk_swap=False)) as server, closing(open_page):
        page = open_page(f"{server.url}/dashboard")
        press(page, "Offload")
        told = api(server, "POST", "models/fake/model/offload").json()["error"]["message"]
        expect(page.locator("#models-notice")).to_have_text(told)


def test_a_model_is_added_and_removed(open_page: Opener, watch: Watch) -> None:
    watch.allowed.extend(("409", "400"))
    with run_in_thread(settings()) as server, closing(open_page):
        page = open_page(f"{server.url}/dashboard")
        form = page.locator("#add")
        page.get_by_role("button", name="Add a model").first.click()
        expect(form.get_by_label("Model", exact=True)).to_be_focused()
        form.get_by_label("Model", exact=True).fill("team/new")
        form.get_by_label("Served name").fill("fake/model")
        form.get_by_role("button", name="Add").click()
        expect(form.get_by_role("alert")).to_contain_text("fake/model")  # which there is already
        form.get_by_label("Served name").fill("two words")
        form.get_by_role("button", name="Add").click()
        expect(form.get_by_role("alert")).to_contain_text("cannot stand in a URL")
        form.get_by_label("Served name").fill("")
        form.get_by_label("Aliases").fill("new, newer")
        form.get_by_label("Revision").fill("main")
        form.get_by_label("Number format").select_option("float16")
        form.get_by_label("Quantisation").select_option("int8")
        form.get_by_label("Load it now").uncheck()
        form.get_by_role("button", name="Add").click()
        expect(form).to_be_hidden()
        expect(cell(page, "team/new", "State")).to_have_text("unloaded")
        expect(cell(page, "team/new", "Format")).to_have_text("float16int8")
        made = described(server, "team/new")
        assert (made["aliases"], made["eager"]) == (["new", "newer"], False)
        assert made["settings"]["revision"] == "main"
        assert server.embed(model="newer", input="a").status_code == 200
        press(page, "Remove", "team/new")
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Cancel").click()
        expect(row(page, "team/new")).to_be_visible()
        press(page, "Remove", "team/new")
        dialog.get_by_role("button", name="Remove").click()
        expect(row(page, "team/new")).to_have_count(0)
        assert api(server, "GET", "models/team/new").status_code == 404


def test_a_failed_model_tells_why(open_page: Opener) -> None:
    def refuse(model: ModelSettings) -> None:
        if model.name == "broken":
            raise ValueError("torn")

    models = (*MODELS, ModelSettings(model="broken"))
    with (
        run_in_thread(settings(models=models), loading(Fakes(refuse))) as server,
        closing(open_page),
    ):
        page = open_page(f"{server.url}/dashboard")
        expect(cell(page, "broken", "State")).to_have_text("failedValueError: torn")


def test_names_are_text_whatever_they_look_like(
    fake_server: RunningServer, open_page: Opener
) -> None:
    name = "<svg/onload=alert(1)>"
    models = (*MODELS, ModelSettings(model="fake/other", name=name, prompts={"<b>": "<i>x</i>"}))
    with run_in_thread(settings(models=models, name="<b>bold</b>")) as server, closing(open_page):
        page = open_page(f"{server.url}/dashboard")
        page.on("dialog", lambda dialog: page.evaluate("window.wasRun = true"))
        expect(row(page, name)).to_be_visible()
        expect(page.locator("#bar-name")).to_have_text("<b>bold</b>")
        page.locator("#example-model").select_option(name)
        expect(page.locator("#example-code")).to_contain_text(name)
        expect(page.locator("#example-prompt")).to_contain_text("<i>x</i>")
        section(page, "Configuration").locator("[data-title=Models] > summary").click()
        expect(page.locator(".model-card").nth(1)).to_contain_text(name)
        press(page, "Remove", name)
        expect(page.get_by_role("dialog")).to_contain_text(f"Remove {name}?")
        assert page.evaluate("window.wasRun") is None
        assert page.locator("main b, main i").count() == 0
