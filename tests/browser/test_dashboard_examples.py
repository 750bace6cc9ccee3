# SPDX-License-Identifier: Apache-2.0
"""The examples that the page writes do what they say, in a real shell and a real interpreter."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser.conftest import Watch
from tests.browser.dashboard import Opener, clipboard, expect
from tests.conftest import REAL_MODEL, RunningServer

TEXTS = {
    "plain": "The cat sat on the mat.",
    "quotes": """It's "quoted" with `ticks` and 'more'""",
    "shell": "$HOME $(id) !! \\n \\ * ; & | > <b> #",
    "lines": "first\nsecond\t\tthird\n\n",
    "unicode": "Füße 🦊 日本語 \u2028 {x} %s",
}
FIRST = 4


def fill(page: Any, text: str, prompt: str | None = None) -> None:
    expect(page.locator("#example-model")).to_have_value(REAL_MODEL)
    expect(page.locator("#example-prompt option")).not_to_have_count(0)
    page.get_by_label("Text", exact=True).fill(text)
    if prompt is not None:
        page.get_by_label("Prompt before the text").select_option("own")
        page.get_by_label("Words of the prompt").fill(prompt)


def copied(page: Any, language: str) -> str:
    page.get_by_role("tab", name=language).click()
    page.get_by_role("button", name="Copy the example").click()
    expect(page.locator("#copy-example")).to_have_text("Copied")
    code = clipboard(page)
    assert code == page.locator("#example-code").inner_text()
    return code


@pytest.mark.parametrize("kind", TEXTS)
def test_curl(real_server: RunningServer, open_page: Opener, kind: str) -> None:
    page = open_page(f"{real_server.url}/dashboard")
    fill(page, TEXTS[kind], 'it\'s a "query": ')
    done = subprocess.run(
        ["bash", "-c", copied(page, "curl")], capture_output=True, text=True, timeout=60
    )
    vector = json.loads(done.stdout)["data"][0]["embedding"]
    expected = real_server.embed(
        model=REAL_MODEL, input=TEXTS[kind], prompt='it\'s a "query": '
    ).json()
    np.testing.assert_allclose(vector, expected["data"][0]["embedding"], atol=1e-5)


@pytest.mark.parametrize("language", ["Python", pytest.param("LangChain", marks=pytest.mark.slow)])
def test_scripts(
    real_server: RunningServer, open_page: Opener, tmp_path: Path, language: str
) -> None:
    text, prompt = "".join(TEXTS.values()), 'say "it": '
    page = open_page(f"{real_server.url}/dashboard")
    fill(page, text, prompt)
    script = tmp_path / "example.py"
    script.write_text(copied(page, language), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    count, _, first = done.stdout.partition(" ")
    answer = real_server.embed(model=REAL_MODEL, input=text, prompt=prompt).json()
    assert int(count) == len(answer["data"][0]["embedding"])
    expected = answer["data"][0]["embedding"][:FIRST]
    np.testing.assert_allclose(json.loads(first), expected, atol=1e-5)


def test_run_it(real_server: RunningServer, open_page: Opener) -> None:
    page = open_page(f"{real_server.url}/dashboard")
    fill(page, TEXTS["quotes"])
    page.get_by_role("button", name="Run it").click()
    result = page.locator("#result")
    expect(result).to_contain_text("200 OK")
    answer = real_server.embed(model=REAL_MODEL, input=TEXTS["quotes"]).json()
    values = answer["data"][0]["embedding"]
    expect(result).to_contain_text(f"Dimensions{len(values)}")
    expect(result).to_contain_text(f"Tokens{answer['usage']['total_tokens']}")
    expect(result).to_contain_text(re.compile(r"Time[\d,]+ ms"))
    first = json.loads(result.locator("code").inner_text().replace(", …", ""))
    np.testing.assert_allclose(first, values[: len(first)], atol=1e-5)


def test_what_the_server_refuses_is_said(
    real_server: RunningServer, open_page: Opener, watch: Watch
) -> None:
    watch.allowed.append("400")
    page = open_page(f"{real_server.url}/dashboard")
    fill(page, "")
    page.get_by_role("button", name="Run it").click()
    message = real_server.embed(model=REAL_MODEL, input="").json()["error"]["message"]
    expect(page.locator("#result")).to_have_text(f"400: {message}")


def test_tabs_are_moved_through_by_arrows(real_server: RunningServer, open_page: Opener) -> None:
    page = open_page(f"{real_server.url}/dashboard")
    page.get_by_role("tab", name="curl").focus()
    for key, name in (
        ("ArrowRight", "Python"),
        ("ArrowRight", "LangChain"),
        ("ArrowRight", "curl"),
        ("ArrowLeft", "LangChain"),
    ):
        page.keyboard.press(key)
        tab = page.get_by_role("tab", name=name)
        expect(tab).to_be_focused()
        expect(tab).to_have_attribute("aria-selected", "true")
        expect(page.get_by_role("tabpanel")).to_have_accessible_name(name)
