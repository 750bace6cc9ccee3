# SPDX-License-Identifier: Apache-2.0
"""The page of the API, as its reader uses it: read, authorise, try out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.api.access import KEY, guarded
from tests.conftest import RunningServer, run_in_thread

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

OpenPage = Callable[..., "Page"]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_in_thread(guarded()) as running:
        yield running


def opened(page: Page, operation: str) -> Locator:
    """An operation, unfolded."""
    block = page.locator(f"[id$='-{operation}']")
    block.locator(".opblock-summary-control").click()
    return block


def authorize(page: Page, key: str) -> None:
    page.locator("button.authorize").click()
    page.locator(".auth-container input").fill(key)
    page.locator(".auth-btn-wrapper button.authorize").click()
    page.locator(".auth-btn-wrapper button.btn-done").click()


def try_out(block: Locator) -> Locator:
    """Send an operation's request; what came back."""
    block.locator("button.try-out__btn").click()
    block.locator("button.execute").click()
    return block.locator(".live-responses-table .response")


def test_it_shows_every_group_of_routes(server: RunningServer, open_page: OpenPage) -> None:
    page = open_page(f"{server.url}/docs")
    page.locator("#operations-Embeddings-post_v1_embeddings").wait_for()
    groups = page.locator(".opblock-tag").evaluate_all("all => all.map(one => one.dataset.tag)")
    assert groups[0] == "Embeddings"
    assert {"Models", "Tokens", "Status", "Health"} <= set(groups)
    assert "Embeddings appliance" in page.locator(".info .title").inner_text()


def test_it_tells_what_the_fields_of_a_request_mean(
    server: RunningServer, open_page: OpenPage
) -> None:
    block = opened(open_page(f"{server.url}/docs"), "post_v1_embeddings")
    block.get_by_role("tab", name="Schema").first.click()
    fields = block.locator(".opblock-section-request-body")
    fields.get_by_text("Leading values of each vector to keep").wait_for()


def test_a_request_without_a_key_is_refused(
    server: RunningServer, open_page: OpenPage, watch: object
) -> None:
    watch.allowed.append("401")  # type: ignore[attr-defined]  # which Chromium logs as an error
    response = try_out(opened(open_page(f"{server.url}/docs"), "get_v1_models"))
    response.locator(".response-col_status", has_text="401").wait_for()


def test_a_request_can_be_tried_out_with_a_key(server: RunningServer, open_page: OpenPage) -> None:
    page = open_page(f"{server.url}/docs")
    authorize(page, KEY)
    response = try_out(opened(page, "get_v1_models"))
    response.locator(".response-col_status", has_text="200").wait_for()
    assert "fake/model" in response.inner_text()


@pytest.mark.slow
def test_texts_can_be_embedded_from_the_page(server: RunningServer, open_page: OpenPage) -> None:
    page = open_page(f"{server.url}/docs")
    authorize(page, KEY)
    block = opened(page, "post_v1_embeddings")
    block.locator("button.try-out__btn").click()
    block.locator("textarea.body-param__text").fill('{"model": "small", "input": "a"}')
    block.locator("button.execute").click()
    response = block.locator(".live-responses-table .response")
    response.locator(".response-col_status", has_text="200").wait_for()
    assert '"prompt_tokens": 3' in response.inner_text()


@pytest.mark.slow
def test_it_is_the_same_page_with_a_slash_behind(
    server: RunningServer, open_page: OpenPage
) -> None:
    page = open_page(f"{server.url}/docs/")
    page.locator("#operations-Embeddings-post_v1_embeddings").wait_for()
