# SPDX-License-Identifier: Apache-2.0
"""The matrix sees the faults that servers are known for, and tells what it could not try."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from compat.conformance import Group, Result, Target, run_case, select_cases, selection
from compat.conformance.__main__ import main
from compat.conformance.registry import Client
from tests.conftest import RunningServer

Edit = Callable[[dict[str, Any]], None]


class Faulty(httpx.HTTPTransport):
    """Stands before a server and changes what is asked of it and what it answers."""

    def __init__(self, ask: Edit | None, answer: Edit | None) -> None:
        super().__init__()
        self._ask = ask
        self._answer = answer

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self._ask and request.content:
            body = json.loads(request.content)
            self._ask(body)
            headers = {**request.headers}
            del headers["content-length"]
            request = httpx.Request(request.method, request.url, headers=headers, json=body)
        response = super().handle_request(request)
        response.read()
        content = response.json()
        if self._answer:
            self._answer(content)
        return httpx.Response(response.status_code, json=content)


def each_vector(change: Callable[[Any], Any]) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        for item in content.get("data", []):
            if "embedding" in item:
                item["embedding"] = change(item["embedding"])

    return edit


def swap(content: dict[str, Any]) -> None:
    first, second, *_ = content["data"]
    first["embedding"], second["embedding"] = second["embedding"], first["embedding"]


def swapped_bytes(vector: Any) -> Any:
    if not isinstance(vector, str):
        return vector
    numbers = np.frombuffer(base64.b64decode(vector), "<f4")
    return base64.b64encode(numbers.astype(">f4").tobytes()).decode()


def flatten(content: dict[str, Any]) -> None:
    content.update(content.pop("error"))


def replace(body: dict[str, Any], output_dtype: str, other: str) -> None:
    if body.get("output_dtype") == output_dtype:
        body["output_dtype"] = other


ASKED: list[tuple[str, Edit]] = [
    ("http/encoding-base64", lambda body: body.update(encoding_format="float")),
    ("http/encoding-format-unknown", lambda body: body.pop("encoding_format")),
    ("http/input-token-ids", lambda body: body.update(token_encoding="native")),
    ("http/dimensions", lambda body: body.pop("dimensions", None)),
    ("http/dimensions-out-of-range", lambda body: body.pop("dimensions", None)),
    ("http/too-long-text", lambda body: body.update(truncate=True)),
    ("http/unit-length", lambda body: body.update(normalize=False)),
    ("http/output-dtype-int8-and-uint8", lambda body: replace(body, "int8", "uint8")),
    ("http/output-dtype-binary-and-ubinary", lambda body: replace(body, "ubinary", "uint8")),
    ("http/output-dtype-with-dimensions", lambda body: body.pop("dimensions", None)),
    ("http/output-dtype-in-base64", lambda body: body.update(encoding_format="float")),
    ("http/output-dtype-unknown", lambda body: body.update(output_dtype="int8")),
    ("openai/output-dtype", lambda body: body.update(encoding_format="base64")),
]
ANSWERED: list[tuple[str, Edit]] = [
    ("http/input-list", lambda content: content["data"].reverse()),
    ("http/same-text-twice", swap),
    ("http/unit-length", each_vector(lambda vector: [2 * number for number in vector])),
    ("http/encoding-base64", each_vector(swapped_bytes)),
    ("http/output-dtype-int8-and-uint8", each_vector(lambda vector: [-n for n in vector])),
    ("http/output-dtype-of-one-text-and-of-many", lambda content: content["data"].reverse()),
    ("http/usage", lambda content: content.update(usage={"prompt_tokens": 0, "total_tokens": 0})),
    ("http/unknown-model", flatten),
    ("http/unknown-model", lambda content: content["error"].update(code=None)),
    ("http/dimensions-out-of-range", lambda content: content["error"].update(param=None)),
    ("http/headers-on-success", lambda content: None),
]


@pytest.mark.parametrize(
    ("name", "ask", "answer"),
    [(name, edit, None) for name, edit in ASKED] + [(name, None, edit) for name, edit in ANSWERED],
    ids=[name for name, _ in ASKED + ANSWERED],
)
def test_a_fault_is_seen(
    name: str, ask: Edit | None, answer: Edit | None, fake_server: RunningServer
) -> None:
    (case,) = select_cases([name])
    with Target(fake_server.url, "fake/model") as target:
        assert run_case(case, target).result is Result.PASSED
        target.http.close()
        target.http = httpx.Client(base_url=target.base_url, transport=Faulty(ask, answer))
        outcome = run_case(case, target)
    assert outcome.result is Result.FAILED, "the fault was not seen"
    assert outcome.detail


def test_output_dtype_is_skipped_where_it_is_passed_over(fake_server: RunningServer) -> None:
    cases = select_cases(["*/output-dtype*"])
    assert len(cases) >= 7
    with Target(fake_server.url, "fake/model") as target:
        ignore = Faulty(lambda body: body.pop("output_dtype", None), None)
        target.http = httpx.Client(base_url=target.base_url, transport=ignore)
        results = {run_case(case, target).result for case in cases}
    assert results == {Result.NOT_OFFERED}


def test_the_command_writes_what_it_prints(
    fake_server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.json"
    arguments = ["--base-url", f"{fake_server.url}/v1/", "--only", "http/models-*"]
    assert main([*arguments, "--json", str(file)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("http ")]
    results = json.loads(file.read_text())
    assert results["summary"] == {"passed": len(rows), "failed": 0, "skipped": 0}
    assert [result["case"] for result in results["results"]] == [
        row.split("|")[1].strip() for row in rows
    ]


def test_the_command_writes_a_table_of_the_clients(
    fake_server: RunningServer, tmp_path: Path
) -> None:
    file = tmp_path / "clients.md"
    chosen = ["--only", "http/models-list", "--only", "openai/m*", "--only", "cohere/rerank"]
    assert main(["--base-url", fake_server.url, *chosen, "--markdown", str(file)]) == 0
    _, _, http, openai = file.read_text().splitlines()
    assert http.endswith("| openai | 1 of 1 cases hold |")
    assert openai.startswith(f"| openai | openai {version('openai')} | `OpenAI` |")
    assert openai.endswith("| 2 of 2 cases hold |")


def test_a_dialect_that_is_not_spoken_is_skipped(fake_server: RunningServer) -> None:
    cases = select_cases(groups=[Group.OLLAMA, Group.COHERE])
    assert len(cases) >= 20
    with Target(f"{fake_server.url}/no/such/place", "fake/model") as target:
        results = {run_case(case, target).result for case in cases}
    assert results - {Result.NOT_INSTALLED} == {Result.NOT_OFFERED}


def test_a_failure_sets_the_exit_code(fake_server: RunningServer) -> None:
    arguments = ["--base-url", fake_server.url, "--only", "http/input-string"]
    assert main(arguments) == 0
    assert main([*arguments, "--model", "another"]) == 1


def test_a_missing_client_is_skipped(
    fake_server: RunningServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cases = select_cases(["http/models-list"])
    missing = Client("http", cases, lambda: False, "pip install something", "", str)
    monkeypatch.setattr(selection, "CLIENTS", [missing])
    assert main(["--base-url", fake_server.url]) == 0
    assert "pip install something" in capsys.readouterr().out
    assert main(["--base-url", fake_server.url, "--strict"]) == 1


def test_no_server_is_told_apart_from_a_bad_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base-url", "http://127.0.0.1:1", "--only", "http/*"]) == 2
    assert "http://127.0.0.1:1/v1" in capsys.readouterr().err
