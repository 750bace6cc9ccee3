# SPDX-License-Identifier: Apache-2.0
"""Every client of the matrix against running servers, with no way out but to them.

The README's snippets for them run here as well, so that each library is imported once.
"""

from __future__ import annotations

import gc
import ipaddress
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from appliance.settings import ModelSettings, Settings
from compat.conformance import (
    Case,
    Group,
    Result,
    Target,
    quiet_environment,
    run_case,
    select_cases,
)
from compat.conformance.clients import node
from compat.conformance.environment import variables
from compat.conformance.samples import QUESTION, TEXTS, numbered
from tests.clients import reference
from tests.clients.editing import edited, in_other_order, turned_round
from tests.conftest import REAL_MODEL, RunningServer, run_in_thread, run_process
from tests.docs.documents import DOCUMENTED_SERVER, snippets
from tests.fakes import FakeBackend, loading

KEY = "sk-right"
JAVASCRIPT_IS_HERE = all(client.installed() for client in node.clients)
KEYLESS = select_cases(groups=[group for group in Group if group is not Group.AUTH])
KEYED = select_cases(groups=[group for group in Group if group is not Group.RERANK])

# Bare HTTP is what the rest is compared with. Those for JavaScript compare by themselves.
APART = ("http", "node", "langchain-js", "langchain-js-ollama")
# These look at something else than vectors.
NO_VECTORS = (
    "chroma/collection",
    "huggingface-hub/too-many-dimensions",
    "langchain/token-ids-are-sent",
    "litellm/empty-text",
    "litellm/too-long-text",
    "ollama/list-models",
    "ollama/ps",
    "openai/dimensions",
    "openai/dimensions-out-of-range",
    "openai/models-list",
    "openai/models-retrieve",
    "openai/request-id",
    "openai/too-long-text",
    "openai-async/empty-text",
    "openai-async/models",
    "openai-async/request-id",
)
DIALECTS = [Group.OPENAI, Group.TEI, Group.OLLAMA, Group.COHERE]
CASES = [
    case
    for case in select_cases(groups=DIALECTS)
    if case.client not in APART and case.id not in NO_VECTORS and case.name != "unknown-model"
]
OF_MANY = select_cases(
    [
        "chroma/*-function",
        "chroma/huggingface-server",
        "cohere/embed",
        "cohere/older-client",
        "haystack/document-embedder",
        "huggingface-hub/*-of-many",
        "langchain*/embed-documents",
        "litellm/embedding",
        "llama-index*/batch",
        "ollama/embed",
        "openai/list-of-texts",
    ],
    DIALECTS,
)
OF_MANY = [case for case in OF_MANY if case.client not in APART]


@pytest.fixture(scope="module")
def strangers() -> Iterator[list[str]]:
    """Hosts other than this one that were called or looked up, in vain."""
    tried: list[str] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not is_here(address[0]):
            tried.append(str(address))
            raise ConnectionRefusedError(f"{address} is out of bounds")
        connect(self, address)

    def look_up_here(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_here(host):
            tried.append(str(host))
            raise socket.gaierror(socket.EAI_NONAME, f"{host} is out of bounds")
        return look_up(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        patch.setattr(socket, "getaddrinfo", look_up_here)
        yield tried


def is_here(host: str | bytes | None) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(name)).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reference.build_reranker(tmp_path_factory.mktemp("reranker"))


@pytest.fixture(scope="module")
def target(
    reranker: Path, strangers: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """The embedded model with its trained weights, and beside it one that sorts texts."""
    models = (
        {"model": f"embedded:{REAL_MODEL}"},
        {"model": str(reranker), "name": reference.RERANKER},
    )
    flags = [flag for model in models for flag in ("--models", json.dumps(model))]
    with (
        run_process(*flags, "--data-dir", str(tmp_path_factory.mktemp("data"))) as server,
        quiet_environment(),
        Target(server.url, rerank_model=reference.RERANKER) as target,
    ):
        yield target


@pytest.fixture(scope="module")
def keyed_target(strangers: list[str]) -> Iterator[Target]:
    """A server that wants a key and whose model has a slash in its name."""
    settings = Settings(models=(ModelSettings(model="owner/name"),), api_keys=(SecretStr(KEY),))
    with (
        run_in_thread(settings, loading(lambda _: FakeBackend(max_input_tokens=256))) as server,
        quiet_environment(),
        Target(server.url, api_key=KEY) as target,
    ):
        yield target


@pytest.mark.parametrize("case", KEYLESS, ids=[case.id for case in KEYLESS])
def test_case(case: Case, target: Target, strangers: list[str]) -> None:
    expect_passed(case, target)
    assert strangers == []


@pytest.mark.parametrize("case", KEYED, ids=[case.id for case in KEYED])
def test_case_with_key_and_slash(case: Case, keyed_target: Target, strangers: list[str]) -> None:
    expect_passed(case, keyed_target)
    assert strangers == []


@pytest.fixture(scope="module")
def expected_vectors() -> np.ndarray:
    return reference.vectors(["The cat sat on the mat.", "Ein zweiter Text"])


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # they close nothing, as users do not
@pytest.mark.parametrize("number", range(len(snippets("python"))))
def test_python_snippets(
    number: int,
    target: Target,
    strangers: list[str],
    expected_vectors: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each in a namespace of its own."""
    monkeypatch.chdir(tmp_path)
    snippet = snippets("python")[number].replace(DOCUMENTED_SERVER, target.root_url)
    names: dict[str, Any] = {"__name__": "__main__"}
    with variables({}):
        exec(compile(snippet, "README.md", "exec"), names)
    assert capsys.readouterr().out.strip()
    if "vectors = " in snippet:
        np.testing.assert_allclose(names["vectors"], expected_vectors, atol=1e-5)
    assert strangers == []
    names.clear()
    gc.collect()


@pytest.mark.skipif(not JAVASCRIPT_IS_HERE, reason="needs Node.js and its packages")
@pytest.mark.parametrize("number", range(len(snippets("js"))))
def test_javascript_snippets(number: int, target: Target, expected_vectors: np.ndarray) -> None:
    snippet = snippets("js")[number].replace(DOCUMENTED_SERVER, target.root_url)
    done = subprocess.run(
        ["node", "--input-type=module"],
        input=f"{snippet}\nconsole.log(JSON.stringify(vectors));",
        cwd=node.FOLDER,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    shape, vectors = done.stdout.splitlines()
    assert shape == "2 384"
    np.testing.assert_allclose(json.loads(vectors), expected_vectors, atol=1e-5)


def test_the_vectors_that_cases_expect_are_those_of_sentence_transformers(target: Target) -> None:
    texts = [*TEXTS, *numbered(25)]
    np.testing.assert_allclose(target.embed(texts), reference.vectors(texts), atol=1e-5)


def test_the_scores_that_cases_expect_are_those_of_sentence_transformers(
    target: Target, reranker: Path
) -> None:
    wanted = reference.scores(reranker, QUESTION, TEXTS)
    assert np.ptp(wanted) > 0.05
    np.testing.assert_allclose(target.rank(QUESTION, TEXTS), wanted, atol=1e-5)


def expect_passed(case: Case, target: Target) -> None:
    outcome = run_case(case, target)
    if outcome.result is Result.NOT_INSTALLED:
        pytest.skip(outcome.detail)
    assert outcome.result is Result.PASSED, f"{case.about} {outcome.detail}"


@pytest.fixture(scope="module")
def turned(fake_server: RunningServer) -> Iterator[Target]:
    with edited(fake_server, turned_round) as target:
        yield target


@pytest.fixture(scope="module")
def mixed_up(fake_server: RunningServer) -> Iterator[Target]:
    with edited(fake_server, in_other_order) as target:
        yield target


@pytest.fixture(scope="module")
def sound(fake_server: RunningServer) -> Iterator[Callable[[Case], Result]]:
    """What comes of a case where nothing is edited; each is run once."""
    with edited(fake_server, lambda content: content) as target:
        yield cache(lambda case: run_case(case, target).result)


def test_there_are_cases_of_every_client() -> None:
    clients = {case.client for case in select_cases(groups=DIALECTS)} - {*APART}
    assert {case.client for case in CASES} == clients
    assert {case.client for case in OF_MANY} == clients - {"openai-async"}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_vectors_that_are_turned_round(
    case: Case, turned: Target, sound: Callable[[Case], Result]
) -> None:
    expect_seen(case, turned, sound)


@pytest.mark.parametrize("case", OF_MANY, ids=[case.id for case in OF_MANY])
def test_vectors_in_another_order(
    case: Case, mixed_up: Target, sound: Callable[[Case], Result]
) -> None:
    expect_seen(case, mixed_up, sound)


def expect_seen(case: Case, faulty: Target, sound: Callable[[Case], Result]) -> None:
    assert sound(case) is Result.PASSED
    outcome = run_case(case, faulty)
    assert outcome.result is Result.FAILED, "the fault was not seen"
    assert "cosine" in outcome.detail or "score" in outcome.detail, outcome.detail
