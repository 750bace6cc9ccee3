# SPDX-License-Identifier: Apache-2.0
"""What the tests of the dashboard share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import PATIENCE, Pages

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

__all__ = ["Opener", "cell", "clipboard", "expect", "figure", "row", "section", "state"]

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
expect.set_options(timeout=PATIENCE)

Opener = Pages


def state(page: Page) -> Locator:
    """The word that says what the instance does."""
    return page.locator("#state-word")


def figure(page: Page, name: str) -> Locator:
    """A figure of the overview."""
    return page.locator(f"#figure-{name}")


def section(page: Page, title: str) -> Locator:
    """A part of the page, by its heading."""
    return page.get_by_role("region", name=title, exact=True)


def row(page: Page, name: str) -> Locator:
    """The row of a model or a token."""
    return page.get_by_role("row").filter(has=page.get_by_text(name, exact=True))


def cell(page: Page, name: str, label: str) -> Locator:
    """A cell of a model's or a token's row, by its column."""
    return row(page, name).locator(f'[data-label="{label}"]')


def clipboard(page: Page) -> str:
    """What was copied last."""
    return str(page.evaluate("navigator.clipboard.readText()"))
