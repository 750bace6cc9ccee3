# SPDX-License-Identifier: Apache-2.0
"""The dashboard's files, as any HTTP client gets them."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from appliance.settings import ModelSettings, Settings
from tests.conftest import RunningServer, run_in_thread

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "appliance" / "dashboard"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.js"))
PLOTLY = "/dashboard/static/plotly.min.js"


def policy(response: httpx.Response) -> dict[str, str]:
    directives = response.headers["content-security-policy"].split("; ")
    return {name: rest for name, _, rest in (one.partition(" ") for one in directives)}


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/plot/requests"])
def test_pages_may_do_little(fake_server: RunningServer, path: str) -> None:
    answer = httpx.get(fake_server.url + path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    allowed = policy(answer)
    assert allowed["default-src"] == "'none'"
    assert allowed["script-src"] == allowed["connect-src"] == allowed["style-src"] == "'self'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not re.search(r"<script>|\son\w+=|\sstyle=|https?://", answer.text)


def test_the_bare_address_leads_to_the_dashboard(fake_server: RunningServer) -> None:
    answer = httpx.get(fake_server.url)
    assert (answer.status_code, answer.headers["location"]) == (307, "dashboard")
    assert httpx.get(fake_server.url, follow_redirects=True).url.path == "/dashboard"


def test_the_dashboard_is_embedded_by_nobody_and_plots_by_whom_the_settings_name() -> None:
    assert policy_of_plot(())["frame-ancestors"] == "*"
    named = policy_of_plot(("https://wiki.example.com",))
    assert named["frame-ancestors"] == "'self' https://wiki.example.com"


def policy_of_plot(origins: tuple[str, ...]) -> dict[str, str]:
    settings = Settings(models=(ModelSettings(model="a"),), cors_allow_origins=origins)
    with run_in_thread(settings) as server:
        page = httpx.get(f"{server.url}/dashboard")
        assert policy(page)["frame-ancestors"] == "'self'"
        return policy(httpx.get(f"{server.url}/dashboard/plot/requests"))


@pytest.mark.parametrize("name", [*SCRIPTS, "dashboard.css", "icon.svg", "plotly.min.js"])
def test_files_are_sent_once(fake_server: RunningServer, name: str) -> None:
    url = f"{fake_server.url}/dashboard/static/{name}"
    first = httpx.get(url, headers={"accept-encoding": "gzip"})
    assert first.status_code == 200
    assert first.headers["content-encoding"] == "gzip"
    assert first.headers["x-content-type-options"] == "nosniff"
    if name != "plotly.min.js":
        assert first.content == (FOLDER / name).read_bytes()
    again = httpx.get(
        url, headers={"accept-encoding": "gzip", "if-none-match": first.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    plain = httpx.get(url, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == first.content
    assert plain.headers["etag"] != first.headers["etag"]


def test_plotly_comes_from_the_installed_package_in_a_third_of_its_size(
    fake_server: RunningServer,
) -> None:
    with httpx.stream(
        "GET", fake_server.url + PLOTLY, headers={"accept-encoding": "gzip"}
    ) as answer:
        raw = b"".join(answer.iter_raw())
    assert b"plotly.js v" in gzip.decompress(raw)[:200]
    assert len(raw) < 2_000_000


def test_heads_are_answered(fake_server: RunningServer) -> None:
    answer = httpx.head(f"{fake_server.url}/dashboard")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    "name", ["index.html", "plot.html", "none.js", "..%2fapp.py", "%2e%2e%2fapp.py", "__init__.py"]
)
def test_nothing_else_is_sent(fake_server: RunningServer, name: str) -> None:
    answer = httpx.get(f"{fake_server.url}/dashboard/static/{name}")
    assert answer.status_code == 404
    assert "error" in answer.json()


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/plot/requests"])
def test_a_slash_at_the_end_is_taken_away(fake_server: RunningServer, path: str) -> None:
    answer = httpx.get(f"{fake_server.url}{path}/", follow_redirects=True)
    assert answer.url.path == path
    assert answer.history[0].status_code == 308
    assert "://" not in answer.history[0].headers["location"]  # right behind any gateway


def test_scripts_parse_no_markup() -> None:
    """Data becomes text by way of nodes alone."""
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function"
    )
    for path in FOLDER.glob("*.js"):
        assert not forbidden.search(path.read_text(encoding="utf-8")), path.name


def test_files_stay_small_and_name_their_licence() -> None:
    for path in FOLDER.glob("*.js"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 300, path.name
        assert "SPDX-License-Identifier: Apache-2.0" in lines[0]


def test_the_wheel_has_the_files(tmp_path: Path) -> None:
    build = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    wheel = zipfile.ZipFile(tmp_path / done.stdout.split()[-1])
    packed = {Path(name).name for name in wheel.namelist() if "appliance/dashboard/" in name}
    assert packed == {path.name for path in FOLDER.iterdir()}
