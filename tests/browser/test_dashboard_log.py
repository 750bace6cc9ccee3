# SPDX-License-Identifier: Apache-2.0
"""The log, followed and searched."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from appliance.settings import ModelSettings, Settings
from tests.browser.dashboard import Opener, clipboard, expect
from tests.conftest import REAL_MODEL, RunningServer, run_in_thread, run_process

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"

planted = logging.getLogger("planted")


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with run_in_thread(Settings(models=(ModelSettings(model="fake/model"),))) as running:
        yield running


def lines(page: Any) -> Any:
    return page.locator("#log-lines .message")


def open_log(open_page: Opener, server: RunningServer) -> Any:
    page = open_page(f"{server.url}/dashboard")
    page.locator("#log-lines").scroll_into_view_if_needed()
    return page


def test_it_follows(server: RunningServer, open_page: Opener) -> None:
    planted.warning("the first")
    page = open_log(open_page, server)
    expect(lines(page).filter(has_text="the first")).to_be_visible()
    for number in range(60):
        planted.warning("line %d", number)
    expect(lines(page).last).to_have_text("line 59")
    expect(lines(page).last).to_be_in_viewport()
    page.get_by_label("Follow").uncheck()
    page.locator("#log-lines").evaluate("(list) => { list.scrollTop = 0; }")
    planted.warning("unseen")
    expect(lines(page).last).to_have_text("unseen")
    assert page.locator("#log-lines").evaluate("(list) => list.scrollTop") == 0
    page.get_by_label("Follow").check()
    expect(lines(page).last).to_be_in_viewport()


def test_it_is_filtered_and_searched(server: RunningServer, open_page: Opener) -> None:
    planted.warning("a mild apple")
    planted.error("a severe pear")
    page = open_log(open_page, server)
    expect(lines(page).filter(has_text="apple")).to_be_visible()
    page.get_by_label("Least severe level").select_option("error")
    expect(lines(page)).to_have_text(["a severe pear"])
    expect(page.locator("#log-count")).to_have_text("1 line")
    page.get_by_label("Least severe level").select_option("debug")
    page.get_by_label("Search the log").fill("APPLE")
    expect(lines(page)).to_have_text(["a mild apple"])
    page.get_by_label("Search the log").fill("no such words")
    expect(page.locator("#log-lines")).to_have_text("No line fits.")
    planted.warning("an apple more, with no such words")
    expect(lines(page)).to_have_text(["an apple more, with no such words"])


def test_it_stands_still_and_is_wiped(server: RunningServer, open_page: Opener) -> None:
    planted.warning("before")
    page = open_log(open_page, server)
    expect(lines(page).last).to_have_text("before")
    page.get_by_role("button", name="Pause").click()
    planted.warning("meanwhile")
    page.wait_for_timeout(3000)
    expect(lines(page).last).to_have_text("before")
    page.get_by_role("button", name="Resume").click()
    expect(lines(page).last).to_have_text("meanwhile")
    page.get_by_role("button", name="Clear").click()
    expect(lines(page)).to_have_count(0)
    planted.warning("after")
    expect(lines(page)).to_have_text(["after"])


def test_lines_are_text_and_old_ones_go(server: RunningServer, open_page: Opener) -> None:
    page = open_log(open_page, server)
    planted.error("<img src=x onerror=alert(1)>\n<b>bold</b>")
    expect(lines(page).last).to_have_text("<img src=x onerror=alert(1)>\n<b>bold</b>")
    assert page.locator("#log-lines img, #log-lines b").count() == 0
    for group in range(4):
        for number in range(400):
            planted.warning("flood %d %d", group, number)
        expect(lines(page).last).to_have_text(f"flood {group} 399")
    assert page.locator("#log-lines > li").count() <= 1000


def test_a_line_names_the_trace_of_its_request(open_page: Opener) -> None:
    flags = ("--log-level", "debug", "--otlp-endpoint", "http://127.0.0.1:9")  # nobody listens
    with run_process(*flags) as running:
        sent = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        body = {"model": REAL_MODEL, "input": "a"}
        httpx.post(f"{running.url}/v1/embeddings", json=body, headers=sent, timeout=60)
        page = open_log(open_page, running)
        page.get_by_label("Least severe level").select_option("debug")
        button = page.get_by_role("button", name=f"Copy the trace id {TRACE}").first
        button.click()
        assert clipboard(page) == TRACE
        page.goto("about:blank")
