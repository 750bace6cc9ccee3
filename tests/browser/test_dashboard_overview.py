# SPDX-License-Identifier: Apache-2.0
"""What the instance is doing, as an operator reads it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from appliance.engine.jobs import Batch
from appliance.settings import ModelSettings, Settings
from tests.browser.conftest import Watch
from tests.browser.dashboard import Opener, clipboard, expect, figure, state
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakeBackend, loading
from tests.serving import running
from tests.unit.tickets import PATIENCE

ONE = (ModelSettings(model="fake/model"),)
AWAY = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")
AWAY += ("ERR_INTERNET_DISCONNECTED", "ERR_CONNECTION_CLOSED")


def test_the_instance_is_introduced(open_page: Opener) -> None:
    settings = Settings(models=ONE, name="berlin-2", project="search")
    with run_in_thread(settings) as server, closing(open_page):
        page = open_page(f"{server.url}/dashboard")
        expect(state(page)).to_have_text("idle")
        expect(page.locator("#bar-name")).to_have_text("berlin-2")
        expect(page.locator("#bar-project")).to_have_text("search")
        expect(page).to_have_title("berlin-2: idle")
        told = httpx.get(f"{server.url}/api/status").json()["instance"]
        expect(page.locator("#session")).to_have_text(told["session_id"])
        expect(figure(page, "version")).to_have_text(told["version"])
        page.get_by_role("button", name="Copy the session id").click()
        expect(page.locator("#copy-session")).to_have_text("Copied")
        assert clipboard(page) == told["session_id"]


def test_idle_time_ticks_between_two_questions(
    fake_server: RunningServer, open_page: Opener
) -> None:
    page = open_page(f"{fake_server.url}/dashboard")
    expect(state(page)).to_have_text("idle")
    page.route("**/api/status", lambda route: None)  # which is never answered again
    seen = figure(page, "idle").inner_text()
    expect(figure(page, "idle")).not_to_have_text(seen)
    expect(page.locator("#headline")).to_contain_text("Idle for")


def test_work_is_shown_while_it_is_done(open_page: Opener) -> None:
    goes_on = threading.Event()

    def hold(_: Batch) -> None:
        assert goes_on.wait(PATIENCE)

    load = loading(lambda _: FakeBackend(before_forward=hold))
    with run_in_thread(Settings(models=ONE), load, wait=False) as server, closing(open_page):
        page = open_page(f"{server.url}/dashboard")
        with ThreadPoolExecutor() as pool:
            expect(state(page)).to_have_text("idle")
            asked = pool.submit(server.embed, model="fake/model", input="a b c")
            try:
                expect(state(page)).to_have_text("active")
                expect(page.locator("#headline")).to_have_text("Working on a request")
                expect(figure(page, "idle")).to_have_text("0 s")
            finally:
                goes_on.set()
            assert asked.result().status_code == 200
        expect(state(page)).to_have_text("idle")
        expect(figure(page, "requests")).to_have_text("1")
        expect(figure(page, "tokens")).to_have_text("5")


def test_loading_is_told_from_idling(open_page: Opener) -> None:
    goes_on = threading.Event()

    def wait(_: ModelSettings) -> FakeBackend:
        assert goes_on.wait(PATIENCE)
        return FakeBackend()

    with (
        run_in_thread(Settings(models=ONE), loading(wait), wait=False) as server,
        closing(open_page),
    ):
        page = open_page(f"{server.url}/dashboard")
        try:
            expect(state(page)).to_have_text("loading")
            expect(page.locator("#headline")).to_have_text("Loading a model")
        finally:
            goes_on.set()
        expect(state(page)).to_have_text("idle")


def test_what_is_wrong_is_said(open_page: Opener, watch: Watch) -> None:
    def refuse(_: ModelSettings) -> FakeBackend:
        raise ValueError("torn")

    watch.allowed.append("503")  # as /health answers then
    with (
        run_in_thread(Settings(models=ONE), loading(refuse), wait=False) as server,
        closing(open_page),
    ):
        page = open_page(f"{server.url}/dashboard")
        expect(page.locator("#headline")).to_have_text("Not working")
        expect(state(page)).to_have_text("idle, not healthy")
        expect(page.locator("#reason")).to_have_text("fake/model: ValueError: torn")


def test_a_server_that_stops(open_page: Opener, watch: Watch) -> None:
    watch.allowed.extend(AWAY)
    with run_in_thread(Settings(models=ONE)) as server:
        page = open_page(f"{server.url}/dashboard")
        expect(state(page)).to_have_text("idle")
        assert server.engine is not None
        server.engine.draining = True
        expect(state(page)).to_have_text("stopping")
        expect(page.locator("#reason")).to_have_text("What was accepted is being finished.")
    expect(state(page)).to_have_text("stopped")
    expect(page.locator("#headline")).to_contain_text("No answer since")
    expect(page.locator("#reason")).to_contain_text("Trying again")


def test_a_server_that_comes_back(
    fake_server: RunningServer, open_page: Opener, watch: Watch
) -> None:
    watch.allowed.extend(AWAY)
    page = open_page(f"{fake_server.url}/dashboard")
    expect(state(page)).to_have_text("idle")
    page.context.set_offline(True)
    expect(state(page)).to_have_text("stopped")
    page.context.set_offline(False)
    expect(state(page)).to_have_text("idle")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_are_the_systems_until_they_are_chosen(
    fake_server: RunningServer, open_page: Opener, scheme: str
) -> None:
    page = open_page(f"{fake_server.url}/dashboard", color_scheme=scheme)
    assert background(page) == scheme
    button = page.locator("#theme")
    expect(button).to_have_text("Auto")
    for wanted in ("light", "dark"):
        button.click()
        assert background(page) == wanted
        page.reload()
        assert background(page) == wanted
    button.click()
    assert background(page) == scheme


def background(page: Any) -> str:
    red = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
    return "light" if int(red) > 128 else "dark"


@pytest.mark.parametrize("width", [320, 390, 768, 1024, 1440, 2560])
def test_nothing_sticks_out(fake_server: RunningServer, open_page: Opener, width: int) -> None:
    page = open_page(f"{fake_server.url}/dashboard", viewport={"width": width, "height": 800})
    expect(state(page)).to_have_text("idle")
    page.locator("#open-add").click()
    page.locator("#settings-groups summary").first.wait_for()
    for group in page.locator("#settings-groups > .group > summary").all():
        group.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_nothing_moves_while_figures_change(fake_server: RunningServer, open_page: Opener) -> None:
    page = open_page(f"{fake_server.url}/dashboard")
    expect(page.get_by_role("rowheader").first).to_be_visible()
    expect(page.locator("#plot-cpu .main-svg").first).to_be_visible()
    page.evaluate(
        """new PerformanceObserver((list) => {
            for (const { value } of list.getEntries()) {
                window.shifted = (window.shifted ?? 0) + value;
            }
        }).observe({ type: 'layout-shift', buffered: false })"""
    )
    before = figure(page, "requests").inner_text()
    for _ in range(3):
        assert fake_server.embed(model="fake/model", input="a b c").status_code == 200
    expect(figure(page, "requests")).not_to_have_text(before)
    assert page.evaluate("window.shifted ?? 0") < 0.01


@contextmanager
def gateway(server: RunningServer, prefix: str) -> Iterator[str]:
    """A gateway that publishes a server under a path, which it takes away."""

    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            assert self.path.startswith(prefix)
            length = int(self.headers.get("content-length", 0))
            answer = httpx.request(
                self.command,
                server.url + self.path.removeprefix(prefix),
                content=self.rfile.read(length),
                headers={"content-type": self.headers.get("content-type", "")},
            )
            self.send_response(answer.status_code)
            for name in ("content-type", "content-security-policy", "location"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_DELETE = _pass_on  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with running(listening) as url:
        yield f"{url}{prefix}"


def test_a_gateway_may_publish_it_under_a_path(open_page: Opener) -> None:
    with (
        run_in_thread(Settings(models=ONE)) as server,
        gateway(server, "/team/embeddings") as url,
        closing(open_page),
    ):
        for path in ("/dashboard", "/dashboard/"):
            page = open_page(url + path)
            expect(state(page)).to_have_text("idle")
            expect(page.locator("#example-code")).to_contain_text(f"{url}/v1/embeddings")
            expect(page.locator("#plot-cpu .main-svg").first).to_be_visible()
            page.goto(f"{url}/dashboard/plot/cpu")
            expect(page.locator(".main-svg").first).to_be_visible()
            page.close()
