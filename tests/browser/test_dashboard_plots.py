# SPDX-License-Identifier: Apache-2.0
"""Plots that move, and plots in other pages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.settings import ModelSettings, Settings
from tests.api.access import KEY, guarded
from tests.browser.conftest import Watch
from tests.browser.dashboard import Opener, expect
from tests.conftest import RunningServer, run_in_thread
from tests.serving import running

NAMES = ["requests", "tokens", "latency", "queue", "cpu", "memory", "network", "disk"]
NAMES += ["gpu-utilization", "gpu-memory", "gpu-temperature"]


@contextmanager
def traffic(server: RunningServer) -> Iterator[None]:
    """Requests without an end."""
    ends = threading.Event()

    def ask() -> None:
        while not ends.wait(0.05):
            server.embed(model="fake/model", input="a b c")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


@pytest.fixture(scope="module")
def busy_server() -> Iterator[RunningServer]:
    settings = Settings(models=(ModelSettings(model="fake/model"),))
    with run_in_thread(settings) as server, traffic(server):
        yield server


def line(page: Any, name: str, number: int = 0) -> Any:
    return page.locator(f"#plot-{name} .scatterlayer .js-line").nth(number)


def test_plots_move_under_load(busy_server: RunningServer, open_page: Opener) -> None:
    page = open_page(f"{busy_server.url}/dashboard")
    assert page.locator(".plot").evaluate_all("plots => plots.map((one) => one.id)") == [
        f"plot-{name}" for name in NAMES
    ]
    for name in ("requests", "tokens"):
        figure = page.locator(f"#plot-{name} .legend .number").first
        figure.scroll_into_view_if_needed()
        expect(figure).not_to_have_text("0/s")
        expect(figure).to_contain_text("/s")
        seen = line(page, name).get_attribute("d")
        expect(line(page, name)).not_to_have_attribute("d", seen)
    expect(page.locator("#plot-latency .legend li")).to_have_count(3)
    expect(page.locator("#plot-latency .legend .number").first).to_contain_text("ms")
    assert "M" in line(page, "latency").get_attribute("d")
    expect(page.locator("#plot-memory .legend .number").first).to_contain_text("iB")


def test_a_moment_is_read_by_pointing_at_it(busy_server: RunningServer, open_page: Opener) -> None:
    page = open_page(f"{busy_server.url}/dashboard")
    plot = page.locator("#plot-cpu")
    line(page, "cpu").wait_for(state="attached")
    plot.locator(".chart").scroll_into_view_if_needed()
    box = plot.locator(".chart").bounding_box()
    expect(plot.locator(".moment")).to_have_text("")
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 40, steps=5)
    expect(plot.locator(".moment")).not_to_have_text("")
    page.mouse.move(0, 0)
    expect(plot.locator(".moment")).to_have_text("")


def test_another_window(busy_server: RunningServer, open_page: Opener) -> None:
    page = open_page(f"{busy_server.url}/dashboard")
    line(page, "cpu").wait_for(state="attached")
    for label, seconds in (("1 h", 3600), ("24 h", 86_400), ("6 h", 21_600), ("15 min", 900)):
        window = f"window={seconds}"  # beside those that the page asks for by itself
        with page.expect_response(lambda r, window=window: window in r.url) as answered:
            page.get_by_role("radio", name=label).check(force=True)
        assert answered.value.json()["window"] == seconds


def test_a_machine_without_a_gpu_says_so(busy_server: RunningServer, open_page: Opener) -> None:
    query = {"names": "gpu-memory"}
    (series,) = httpx.get(f"{busy_server.url}/api/series", params=query).json()["series"]
    if series["available"]:
        pytest.skip("there is a GPU")
    page = open_page(f"{busy_server.url}/dashboard")
    for name in NAMES[-3:]:
        plot = page.locator(f"#plot-{name}")
        plot.scroll_into_view_if_needed()
        expect(plot.locator(".blank")).to_have_text("There is no GPU on this machine.")


def test_lines_take_the_colours_of_the_page(busy_server: RunningServer, open_page: Opener) -> None:
    page = open_page(f"{busy_server.url}/dashboard", color_scheme="light")
    line(page, "cpu").wait_for(state="attached")
    page.locator("#plot-cpu").scroll_into_view_if_needed()
    expect(line(page, "cpu")).to_have_css("stroke", "rgb(51, 64, 198)")
    page.emulate_media(color_scheme="dark")
    expect(line(page, "cpu")).to_have_css("stroke", "rgb(168, 180, 255)")


def test_nothing_is_asked_while_nobody_looks(busy_server: RunningServer, open_page: Opener) -> None:
    page = open_page(f"{busy_server.url}/dashboard")
    line(page, "cpu").wait_for(state="attached")
    asked = []
    page.evaluate(
        """() => {
            Object.defineProperty(document, 'visibilityState', { value: 'hidden', writable: true });
            document.dispatchEvent(new Event('visibilitychange'));
        }"""
    )
    page.wait_for_timeout(1000)  # what was under way comes in
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(6000)
    assert asked == []
    with page.expect_response(lambda answer: "/api/status" in answer.url):
        page.evaluate(
            """() => {
                document.visibilityState = 'visible';
                document.dispatchEvent(new Event('visibilitychange'));
            }"""
        )


@contextmanager
def other_site(folder: Path) -> Iterator[str]:
    """Pages of another origin."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with running(listening) as url:
        yield url


def test_each_plot_has_a_page_that_others_embed(
    busy_server: RunningServer, open_page: Opener, watch: Watch, tmp_path: Path
) -> None:
    watch.allowed.extend(("frame-ancestors", "favicon.ico", "404"))
    page = open_page(f"{busy_server.url}/dashboard")
    plot = page.get_by_role("link", name="Embed the plot CPU")
    url = plot.get_attribute("href")
    assert url == f"{busy_server.url}/dashboard/plot/cpu"
    frames = f'<iframe src="{url}?window=3600&theme=dark"></iframe>'
    frames += f'<iframe src="{busy_server.url}/dashboard"></iframe>'
    (tmp_path / "wiki.html").write_text(f"<!doctype html><title>Wiki</title>{frames}")
    with other_site(tmp_path) as site:
        page.goto(f"{site}/wiki.html")
        embedded = page.frame_locator("iframe").first
        expect(embedded.locator(".js-line").first).to_be_attached()
        expect(embedded.get_by_role("heading", name="CPU")).to_be_visible()
        expect(page.frame_locator("iframe").nth(1).locator("#headline")).to_have_count(0)
        page.goto("about:blank")
    assert any("frame-ancestors" in fault for fault in watch.faults)


def test_a_plot_by_itself_asks_for_a_token_too(
    open_page: Opener, watch: Watch, tmp_path: Path
) -> None:
    watch.allowed.append("401")
    with run_in_thread(guarded(tmp_path)) as server, closing(open_page):
        page = open_page(f"{server.url}/dashboard/plot/memory")
        page.get_by_label("This server asks for a token").fill(KEY)
        page.get_by_role("button", name="Show the plot").click()
        expect(page.get_by_role("heading", name="Memory")).to_be_visible()
        expect(page.locator(".js-line").first).to_be_attached()


def test_a_plot_that_there_is_not(
    busy_server: RunningServer, open_page: Opener, watch: Watch
) -> None:
    watch.allowed.append("400")
    page = open_page(f"{busy_server.url}/dashboard/plot/%3Cimg%20src=x%20onerror=alert(1)%3E")
    expect(page.locator("#notice")).to_contain_text("there is no series '<img")
    expect(page.get_by_role("heading", name="<img")).to_be_visible()
