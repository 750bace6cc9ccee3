# SPDX-License-Identifier: Apache-2.0
"""Every client of the matrix against running servers, with no way out but to them."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from typing import Any

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
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakeBackend, loading

KEY = "sk-right"
KEYLESS = select_cases(groups=[Group.OPENAI, Group.EXTENSION])
ALL = select_cases()


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
def target(real_server: RunningServer, strangers: list[str]) -> Iterator[Target]:
    with quiet_environment(), Target(real_server.url) as target:
        yield target


@pytest.fixture(scope="module")
def keyed_target(strangers: list[str]) -> Iterator[Target]:
    """A server that wants a key and has a model with a slash in its name."""
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


@pytest.mark.parametrize("case", ALL, ids=[case.id for case in ALL])
def test_case_with_key_and_slash(case: Case, keyed_target: Target, strangers: list[str]) -> None:
    expect_passed(case, keyed_target)
    assert strangers == []


def expect_passed(case: Case, target: Target) -> None:
    outcome = run_case(case, target)
    if outcome.result is Result.NOT_INSTALLED:
        pytest.skip(outcome.detail)
    assert outcome.result is Result.PASSED, f"{case.about} {outcome.detail}"
