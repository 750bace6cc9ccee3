# SPDX-License-Identifier: Apache-2.0
"""Tokens made on the page, and the page of a server that asks for one."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from appliance.settings import ModelSettings, Settings
from tests.api.access import KEY, ask, create, embed, guarded
from tests.browser.conftest import Watch
from tests.browser.dashboard import Opener, cell, clipboard, expect, row, state
from tests.conftest import RunningServer, run_in_thread


def make_token(page: Any, name: str, **numbers: int) -> str:
    page.get_by_role("button", name="Create a token").click()
    form = page.locator("#token")
    form.get_by_label("Name").fill(name)
    form.get_by_label("fake/model").check()
    for label, value in numbers.items():
        form.get_by_label(label).fill(str(value))
    form.get_by_role("button", name="Create").click()
    secret = page.locator("#secret")
    expect(secret).to_be_visible()
    secret.get_by_role("button", name="Copy").click()
    expect(page.locator("#copy-secret")).to_have_text("Copied")
    shown = secret.locator("code").inner_text()
    assert clipboard(page) == shown
    secret.get_by_role("button", name="I have it").click()
    expect(secret).to_be_hidden()
    assert shown not in page.content()
    return shown


def give_key(page: Any, key: str) -> None:
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Token with the scope admin").fill(key)
    dialog.get_by_role("button", name="Continue").click()


def test_a_token_lives_and_ends(open_page: Opener, watch: Watch, tmp_path: Path) -> None:
    watch.allowed.append("401")  # before a key is given
    with run_in_thread(guarded(tmp_path)) as server, closing(open_page):
        page = open_page(f"{server.url}/dashboard")
        give_key(page, KEY)
        secret = make_token(page, "ci", **{"Requests a minute": 2})
        assert embed(server, secret).status_code == 200
        assert embed(server, secret, model="other").status_code == 403
        assert ask(server, secret, "GET", "/api/tokens").status_code == 403
        assert embed(server, secret).status_code == 429
        expect(cell(page, "ci", "Models")).to_have_text("fake/model")
        expect(cell(page, "ci", "Scopes")).to_have_text("embed")
        expect(cell(page, "ci", "Quotas a minute")).to_have_text("2 requests")
        page.get_by_role("button", name="Revoke ci").click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        expect(cell(page, "ci", "State")).to_have_text("active")
        page.get_by_role("button", name="Revoke ci").click()
        page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        expect(cell(page, "ci", "State")).to_have_text("revoked")
        assert embed(server, secret).status_code == 401


def test_what_is_wrong_with_a_token_is_said_at_its_field(
    open_page: Opener, watch: Watch, tmp_path: Path
) -> None:
    watch.allowed.append("400")
    settings = Settings(models=(ModelSettings(model="fake/model"),), data_dir=tmp_path)
    with run_in_thread(settings) as server, closing(open_page):
        page = open_page(f"{server.url}/dashboard")
        page.get_by_role("button", name="Create a token").click()
        form = page.locator("#token")
        form.get_by_label("Name").fill("late")
        form.get_by_label("Expires").fill("2020-01-01T00:00")
        form.get_by_role("button", name="Create").click()
        expect(form.get_by_role("alert")).to_contain_text("has passed")
        expect(form.get_by_label("Expires")).to_be_focused()
        expect(form.get_by_label("Expires")).to_have_attribute("aria-invalid", "true")
        form.get_by_label("Expires").fill("2099-01-31T12:30")
        form.get_by_role("button", name="Create").click()
        page.get_by_role("button", name="I have it").click()
        expect(cell(page, "late", "Expires")).to_have_text("2099-01-31 12:30")


def test_where_no_token_can_be_kept_the_page_says_so(
    fake_server: RunningServer, open_page: Opener
) -> None:
    page = open_page(f"{fake_server.url}/dashboard")
    page.locator("#tokens-table").scroll_into_view_if_needed()
    expect(page.locator("#tokens-table")).to_contain_text("No tokens can be kept: set data_dir")
    expect(page.get_by_role("button", name="Create a token")).to_be_disabled()


def test_the_page_asks_for_a_token_and_forgets_it(
    open_page: Opener, watch: Watch, tmp_path: Path
) -> None:
    watch.allowed.append("401")
    with run_in_thread(guarded(tmp_path)) as server, closing(open_page):
        page = open_page(f"{server.url}/dashboard")
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_label("Token with the scope admin")).to_be_focused()
        give_key(page, "wrong")
        expect(dialog).to_contain_text("The one you gave is not good here.")
        give_key(page, KEY)
        expect(state(page)).to_have_text("idle")
        expect(row(page, "fake/model")).to_be_visible()
        page.reload()
        expect(state(page)).to_have_text("idle")
        expect(dialog).to_be_hidden()
        assert KEY not in page.content()
        page.get_by_role("button", name="Forget token").click()
        expect(dialog).to_be_visible()
        dialog.get_by_role("button", name="Not now").click()
        expect(page.get_by_text("The server wants a token, and none was given.")).to_be_visible()
        page.wait_for_timeout(3000)  # longer than from one question to the next
        expect(dialog).to_be_hidden()
        page.get_by_role("button", name="Enter a token").click()
        give_key(page, KEY)
        expect(state(page)).to_have_text("idle")
        other = page.context.new_page()  # a key is its tab's own
        watch.over(other).goto(f"{server.url}/dashboard")
        expect(other.get_by_role("dialog")).to_be_visible()


def test_a_token_that_may_not_is_told_what_it_lacks(
    open_page: Opener, watch: Watch, tmp_path: Path
) -> None:
    watch.allowed.extend(("401", "403"))
    with run_in_thread(guarded(tmp_path)) as server, closing(open_page):
        secret = create(server, scopes=["embed"])["secret"]
        page = open_page(f"{server.url}/dashboard")
        give_key(page, secret)
        refused = page.locator("#refused")
        expect(refused).to_contain_text("lacks the scope 'admin'")
        refused.get_by_role("button", name="Enter a token").click()
        give_key(page, KEY)
        expect(refused).to_be_hidden()
        expect(state(page)).to_have_text("idle")
