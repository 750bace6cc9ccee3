# SPDX-License-Identifier: Apache-2.0
"""A real browser, watched: what its pages must never do fails the test that made them do it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",  # which a container's root user cannot have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
)
PATIENCE = 30_000
"""Milliseconds that a page may take for what it is to show; machines of tests are slow."""

OUTPUT = Path(os.environ.get("BROWSER_TEST_OUTPUT", Path(__file__).parent / "output"))
"""Where screenshots go."""


class Watch:
    """What pages did that they must not do.

    Attributes:
        faults: One line each: errors on the console, violations of the content security policy
            among them, and requests that leave the server.
        allowed: Parts of lines that a test expects.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.allowed: list[str] = []

    def over(self, page: Page) -> Page:
        """Begin to watch a page."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._note(f"uncaught: {error}"))
        page.on("request", self._request)
        return page

    def check(self) -> None:
        """Fail if there was a fault that no test expects."""
        assert not [f for f in self.faults if not any(part in f for part in self.allowed)]

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._note(f"console: {message.text} ({message.location.get('url', '')})")

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https") and parts.hostname != "127.0.0.1":
            self._note(f"request to another host: {request.url}")

    def _note(self, fault: str) -> None:
        self.faults.append(fault)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium.

    Not for the whole session: while it is open an event loop runs, beside which tests that are
    coroutines cannot.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("there is no Chromium (Debian's chromium-headless-shell)")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def watch() -> Iterator[Watch]:
    """The watch over a test's pages; it is checked at the end."""
    watching = Watch()
    yield watching
    watching.check()


class Pages:
    """Opens pages, which are closed when the test ends, or before.

    A page asks its server again and again: where that ends first, ``closing(open_page)`` goes
    behind it in the same ``with``.
    """

    def __init__(self, browser: Browser, watch: Watch) -> None:
        self._browser = browser
        self._watch = watch
        self._contexts: list[BrowserContext] = []

    def __call__(self, url: str, **options: Any) -> Page:
        """Open a URL in a browser context of its own; options are those of ``new_context``."""
        size = {"width": 1440, "height": 900}
        context = self._browser.new_context(
            **{
                "viewport": size,
                "permissions": ["clipboard-read", "clipboard-write"],
                "reduced_motion": "reduce",
                "locale": "en-GB",
                **options,
            }
        )
        context.set_default_timeout(PATIENCE)
        self._contexts.append(context)
        page = self._watch.over(context.new_page())
        page.goto(url)
        return page

    def close(self) -> None:
        """Close all that are open."""
        while self._contexts:
            self._contexts.pop().close()


@pytest.fixture
def open_page(browser: Browser, watch: Watch) -> Iterator[Pages]:
    """Opens pages."""
    pages = Pages(browser, watch)
    yield pages
    pages.close()
