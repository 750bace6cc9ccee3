# SPDX-License-Identifier: Apache-2.0
"""The dashboard without a mouse, without eyes, and without good light."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from tests.browser.dashboard import Opener, expect, state
from tests.conftest import RunningServer

FOCUSABLE = """
() => [...document.querySelectorAll(
    'a[href], button, input, select, textarea, summary, [tabindex="0"]'
)]
    .filter((one) => one.checkVisibility() && !one.disabled && one.tabIndex >= 0)
"""

# Colours of text against what is behind it, by the formula of WCAG 2.2.
CONTRAST = """
() => {
    const probe = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgba = (colour) => {
        probe.clearRect(0, 0, 1, 1);
        probe.fillStyle = colour;
        probe.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = probe.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map((value) => {
            const share = value / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const colour = rgba(getComputedStyle(one).backgroundColor);
            if (colour[3] > 0.9) return colour;
        }
        return rgba('canvas');
    };
    const faults = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
        if (element.closest('[aria-disabled="true"], :disabled, svg, .off-screen')) continue;
        const [one, other] = [light(rgba(getComputedStyle(element).color)), light(behind(element))];
        const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        if (ratio < 4.5) faults.push(`${walker.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
    }
    return faults;
}
"""

NAMELESS = """
() => [...document.querySelectorAll('input, select, textarea, button, a[href], ol, dialog')]
    .filter((one) => one.checkVisibility({ visibilityProperty: true }))
    .filter((one) => !(
        one.labels?.length
        || one.getAttribute('aria-label')
        || one.getAttribute('aria-labelledby')
        || one.textContent.trim()
    ))
    .map((one) => one.outerHTML)
"""


def opened(open_page: Opener, server: RunningServer, **options: Any) -> Any:
    """The page with all that unfolds unfolded."""
    page = open_page(f"{server.url}/dashboard", **options)
    expect(state(page)).to_have_text("idle")
    page.locator("#open-add").click()
    page.locator("#settings-groups summary").first.wait_for()
    for group in page.locator("#settings-groups > .group > summary").all():
        group.click()
    page.locator(".model-card summary").first.click()
    page.locator("#clone").click()
    page.locator("#clone-command").wait_for()
    return page


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(
    fake_server: RunningServer, open_page: Opener, scheme: str, width: int
) -> None:
    size = {"width": width, "height": 800}
    page = opened(open_page, fake_server, color_scheme=scheme, viewport=size)
    assert page.evaluate(CONTRAST) == []


def test_all_has_names_and_a_structure(fake_server: RunningServer, open_page: Opener) -> None:
    page = opened(open_page, fake_server)
    assert page.evaluate(NAMELESS) == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    dangling = page.evaluate(
        """() => [...document.querySelectorAll('[aria-labelledby], [aria-describedby], label[for]')]
            .flatMap((one) => ['aria-labelledby', 'aria-describedby', 'for']
                .flatMap((name) => (one.getAttribute(name) ?? '').split(' ').filter(Boolean)))
            .filter((id) => !document.getElementById(id))"""
    )
    assert dangling == []
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3')].filter((one) => one.checkVisibility())"
        ".map((one) => Number(one.tagName[1]))"
    )
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for role in ("banner", "main", "navigation", "contentinfo"):
        expect(page.get_by_role(role)).to_have_count(1)
    assert page.locator("html").get_attribute("lang") == "en"
    expect(page.locator("[role=status] #state-word")).to_have_count(1)
    for table in ("Models that are served", "Tokens"):
        expect(page.get_by_role("table", name=table)).to_be_visible()


def test_the_keyboard_reaches_everything(fake_server: RunningServer, open_page: Opener) -> None:
    page = opened(open_page, fake_server)
    page.locator("#tokens").scroll_into_view_if_needed()
    page.evaluate(f"window.wanted = new Set(({FOCUSABLE})())")
    assert page.evaluate("window.wanted.size") > 60
    page.evaluate("document.activeElement.blur(); document.querySelector('.skip').focus()")
    page.evaluate("window.wanted.delete(document.activeElement)")
    for _ in range(page.evaluate("window.wanted.size") + 40):
        page.keyboard.press("Tab")
        is_shown = page.evaluate(
            """() => {
                const one = document.activeElement;
                window.wanted.delete(one);
                const style = getComputedStyle(one);
                return one === document.body || style.outlineStyle !== 'none'
                    || one.type === 'radio';  // whose label has the outline
            }"""
        )
        assert is_shown, page.evaluate("document.activeElement.outerHTML")
    left = page.evaluate(
        """() => [...window.wanted]
            .filter((one) => one.isConnected && one.type !== 'radio')  // arrows move among those
            .map((one) => one.outerHTML)"""
    )
    assert left == []


def test_forms_are_opened_and_left_by_the_keyboard(
    fake_server: RunningServer, open_page: Opener
) -> None:
    page = open_page(f"{fake_server.url}/dashboard")
    expect(state(page)).to_have_text("idle")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.locator("#open-add").press("Enter")
    expect(page.locator("#add-model")).to_be_focused()
    expect(page.locator("#open-add")).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    expect(page.locator("#add")).to_be_hidden()
    expect(page.locator("#open-add")).to_be_focused()
    page.get_by_role("button", name="Remove other").press("Enter")
    dialog = page.get_by_role("dialog", name="Remove other?")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Remove other")).to_be_focused()


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_for_those_who_want_no_motion(
    fake_server: RunningServer, open_page: Opener, motion: str
) -> None:
    page = open_page(f"{fake_server.url}/dashboard", reduced_motion=motion)
    name = page.evaluate(
        """() => {
            const state = document.querySelector('#state');
            state.dataset.state = 'loading';
            return getComputedStyle(state.querySelector('.icon')).animationName;
        }"""
    )
    assert name == ("none" if motion == "reduce" else "turn")
