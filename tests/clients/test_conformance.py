# SPDX-License-Identifier: Apache-2.0
"""Every client of the matrix against running servers, with no way out but to them."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterator
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
from compat.conformance.samples import QUESTION, TEXTS, numbered
from tests.clients import reference
from tests.conftest import REAL_MODEL, run_in_thread, run_process
from tests.fakes import FakeBackend, loading

KEY = "sk-right"
KEYLESS = select_cases(groups=[group for group in Group if group is not Group.AUTH])
KEYED = select_cases(groups=[group for group in Group if group is not Group.RERANK])


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
def target(reranker: Path, strangers: list[str]) -> Iterator[Target]:
    """The embedded model with its trained weights, and beside it one that sorts texts."""
    models = (
        {"model": f"embedded:{REAL_MODEL}"},
        {"model": str(reranker), "name": reference.RERANKER},
    )
    flags = [flag for model in models for flag in ("--models", json.dumps(model))]
    with (
        run_process(*flags) as server,
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
