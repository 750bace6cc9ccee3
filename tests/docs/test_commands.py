# SPDX-License-Identifier: Apache-2.0
"""Every block of the docs is true: its commands are run as they stand there, or checked."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import httpx
import jsonschema
import msgspec
import pytest
import yaml

from appliance.cli import main
from appliance.idle import LastAction
from tests.conftest import REAL_MODEL, RunningServer, run_process
from tests.docs.commands import prepare, run
from tests.docs.documents import DOCUMENTED_SERVER, ROOT, Block, blocks, spans
from tests.docs.stand_ins import STAND_INS
from tests.faults.test_table import named_in
from tests.ops.files import load

README = "README.md"
OPS = "ops/README.md"
SHELL = ("sh", "bash")
BLOCKS = blocks()
TOKEN_IN_THE_DOCS = "tok_8e3ed4024467b8e4"

ELSEWHERE = {
    (README, "Embed a whole file", "appliance embed"): (
        "tests/bulk/test_command.py::test_the_readmes_commands"
    ),
}
"""Shell blocks by document, heading and a part of their text, and the tests that run them."""


def is_run_elsewhere(block: Block) -> bool:
    return any(
        place == [block.document, block.heading] and part in block.text
        for *place, part in ELSEWHERE
    )


def sections() -> dict[tuple[str, str], str]:
    """The commands under each heading, those of all its blocks together."""
    found: dict[tuple[str, str], str] = {}
    for block in BLOCKS:
        if block.language in SHELL and not is_run_elsewhere(block):
            place = block.document, block.heading
            found[place] = found.get(place, "") + block.text
    return found


SECTIONS = sections()
RESULTS: dict[tuple[str, str], Callable[[Path, str], bool]] = {
    (README, "Embeddings appliance"): lambda _, told: json.loads(told)["model"] == REAL_MODEL,
    (README, "Rank documents"): lambda _, told: json.loads(told)["results"][0]["index"] == 1,
    (README, "Move and clone an instance"): (
        lambda folder, _: json.loads((folder / "clone.json").read_text())["port"] == 8081
    ),
    (README, "Tokens"): lambda _, told: told.endswith("is revoked\n"),
}
"""What is to be seen after the commands of some sections, in their folder and on the screen."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The one of "Serve more models than fit", and beside its two models the embedded one."""
    command = SECTIONS[README, "Serve more models than fit"].replace("\\\n", "")
    [start] = [line for line in command.splitlines() if "--disk-swap" in line]
    folder = tmp_path_factory.mktemp("server")
    flags = ["--models", f"embedded:{REAL_MODEL}", "--swap-dir", str(folder / "swap")]
    flags += ["--data-dir", str(folder / "data")]
    with run_process(*shlex.split(start)[1:], *flags) as running:
        yield running


@pytest.mark.parametrize("place", SECTIONS, ids="-".join)
def test_commands(place: tuple[str, str], server: RunningServer, tmp_path: Path) -> None:
    script = SECTIONS[place]
    prepare(tmp_path, list(STAND_INS))
    if TOKEN_IN_THE_DOCS in script:
        script = script.replace(TOKEN_IN_THE_DOCS, make_token(tmp_path / "data"))
    outcome = run(script, tmp_path, server.url)
    checks = {name.rpartition("/")[2]: stand_in.check for name, stand_in in STAND_INS.items()}
    for call in outcome.calls:
        checks[call.program](call)
    if place in RESULTS:
        assert RESULTS[place](tmp_path, outcome.stdout), outcome.stdout


def test_two_models_that_do_not_fit_are_served(server: RunningServer) -> None:
    for name in ("first", "second", "first"):
        assert server.embed(model=name, input="a").status_code == 200
    assert httpx.get(f"{server.url}/api/status", timeout=60).json()["swaps"]


def make_token(folder: Path) -> str:
    """The id of one that is made as the docs have it."""
    with redirect_stdout(io.StringIO()) as told, redirect_stderr(io.StringIO()):
        assert main(["token", "create", "ci", "--json", "--data-dir", str(folder)]) == 0
    return str(json.loads(told.getvalue())["token"]["id"])


def test_tests_that_run_blocks_elsewhere_are_there() -> None:
    for (*place, part), test in ELSEWHERE.items():
        assert any(is_run_elsewhere(b) for b in BLOCKS if place == [b.document, b.heading]), part
        file, _, name = test.partition("::")
        assert name in named_in(ROOT / file)


def test_sections_whose_results_are_seen_are_there() -> None:
    assert RESULTS.keys() <= SECTIONS.keys()


def test_a_program_that_is_not_known_fails(tmp_path: Path) -> None:
    prepare(tmp_path, list(STAND_INS))
    with pytest.raises(AssertionError, match="no-such-program: command not found"):
        run("true\nno-such-program --flag\n", tmp_path, "http://127.0.0.1:1")


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in ("python", "js")])
def test_snippets_are_where_they_are_run(block: Block) -> None:
    """``tests/clients/test_conformance.py`` runs them, which knows what the README promises."""
    assert block.document == README


def check_report(text: str, _: RunningServer) -> None:
    report = json.loads(text)
    assert msgspec.json.decode(text, type=LastAction)
    assert list(report) == [field.name for field in msgspec.structs.fields(LastAction)]


def check_sparse_item(text: str, server: RunningServer) -> None:
    described = httpx.get(f"{server.url}/openapi.json", timeout=60).json()["components"]
    schema = {"$ref": "#/components/schemas/EmbeddingObject", "components": described}
    assert json.loads(text).keys() <= described["schemas"]["EmbeddingObject"]["properties"].keys()
    jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)


def check_plot(text: str, server: RunningServer) -> None:
    [page] = re.findall(r'src="(.*?)"', text)
    answer = httpx.get(page.replace(DOCUMENTED_SERVER, server.url), timeout=60)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")


def check_scrape(text: str, server: RunningServer) -> None:
    [job] = yaml.safe_load(text)["scrape_configs"]
    [other] = load("prometheus.yaml")["scrape_configs"]
    assert job["job_name"] == other["job_name"]
    assert job["static_configs"] == other["static_configs"]
    assert httpx.get(f"{server.url}/metrics", timeout=60).status_code == 200


def check_provider(text: str, _: RunningServer) -> None:
    here, there = yaml.safe_load(text), load("compose/grafana-dashboards.yaml")
    for file in (here, there):
        del file["providers"][0]["options"]["path"]
    assert here == there
    [folder] = re.findall(r"path: (\S+) ", text)
    assert f"cp ops/grafana.json {folder}/" in SECTIONS[OPS, "Grafana"]


def check_map(text: str, _: RunningServer) -> None:
    lines = [line for line in text.splitlines() if not line.startswith(" ")]
    assert all((ROOT / line.split()[0]).is_dir() for line in lines)


OTHERS: dict[tuple[str, str, str], Callable[[str, RunningServer], None]] = {
    (README, "Instances that nobody uses", "json"): check_report,
    (README, "Sparse vectors", "json"): check_sparse_item,
    (README, "Watch it in the browser", "html"): check_plot,
    (README, "Watch it", "yaml"): check_scrape,
    (README, "Work on it", ""): check_map,
    (OPS, "Grafana", "yaml"): check_provider,
}
"""Blocks that are no commands, by document, heading and language."""


def others() -> list[tuple[str, str, str, str]]:
    known = (*SHELL, "python", "js")
    return [(b.document, b.heading, b.language, b.text) for b in BLOCKS if b.language not in known]


@pytest.mark.parametrize(("document", "heading", "language", "text"), others())
def test_what_is_no_command(
    document: str, heading: str, language: str, text: str, server: RunningServer
) -> None:
    OTHERS[document, heading, language](text, server)


def test_what_is_checked_is_there() -> None:
    assert OTHERS.keys() == {tuple(place) for *place, _ in others()}


def test_routes(server: RunningServer) -> None:
    paths = httpx.get(f"{server.url}/openapi.json", timeout=60).json()["paths"]
    served = {
        f"{method.upper()} {re.sub(r'{.*?}', 'NAME', path)}"
        for path, operations in paths.items()
        for method in operations
    }
    for name, span in spans():
        route = re.sub(r"/[A-Z]+(?=/|$)", "/NAME", span)
        if re.match(r"(DELETE|GET|POST|PUT) /", span) and route not in served:
            method, path = span.split()  # one that OpenAPI leaves out, as it is another's double
            answer = httpx.request(method, server.url + path, timeout=60)
            assert answer.status_code not in (404, 405), f"{name}: {span}"
