# SPDX-License-Identifier: Apache-2.0
"""Pictures of the whole page, for people to look at; `BROWSER_TEST_OUTPUT` names their folder."""

from __future__ import annotations

import pytest

from tests.browser.conftest import OUTPUT
from tests.browser.dashboard import Opener, expect, state
from tests.conftest import REAL_MODEL, RunningServer


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1440, "light"),
        (390, "dark"),
        pytest.param(1440, "dark", marks=pytest.mark.slow),
        pytest.param(390, "light", marks=pytest.mark.slow),
    ],
)
def test_the_whole_page(
    real_server: RunningServer, open_page: Opener, width: int, scheme: str
) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for text in ("a short one", "a text that is somewhat longer " * 8):
        assert real_server.embed(model=REAL_MODEL, input=text).status_code == 200
    size = {"width": width, "height": 900}
    page = open_page(f"{real_server.url}/dashboard", viewport=size, color_scheme=scheme)
    expect(state(page)).to_have_text("idle")
    page.get_by_role("button", name="Run it").click()
    expect(page.locator("#result")).to_contain_text("200 OK")
    for part in page.locator("main > section, .plot").all():  # what is drawn once it is seen
        part.scroll_into_view_if_needed()
    expect(page.locator("#log-lines time").first).to_be_attached()
    expect(page.locator("#plot-memory .js-line").first).to_be_attached()
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=OUTPUT / f"dashboard-{width}-{scheme}.png", full_page=True)
