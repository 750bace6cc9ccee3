# SPDX-License-Identifier: Apache-2.0
"""OpenAI's API of files by its own SDK, and by forms that no SDK would send."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from compat import openai_files
from tests.api.batching import begin, client_of, end, keeping, line, lines_of, upload
from tests.conftest import RunningServer, run_in_thread, run_process
from tests.fakes import FakeBackend, loading
from tests.unit.tickets import Gate

CONTENT = lines_of(*map(line, range(3)))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with run_in_thread(keeping(tmp_path)) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> openai.OpenAI:
    return client_of(server)


def kept_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "files").glob("*"))


def post(server: RunningServer, **options: object) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/files", timeout=60, **options)  # type: ignore[arg-type]


def test_a_file_comes_stays_and_goes(client: openai.OpenAI, tmp_path: Path) -> None:
    before = int(time.time())
    kept = upload(client, CONTENT, "my \N{SNOWMAN} file.jsonl")
    assert kept.id.startswith("file-")
    assert kept.object == "file"
    assert kept.bytes == len(CONTENT)
    assert kept.filename == "my \N{SNOWMAN} file.jsonl"
    assert kept.purpose == "batch"
    assert kept.status == "processed"
    assert kept.expires_at is None
    assert before <= kept.created_at <= time.time()
    assert client.files.retrieve(kept.id) == kept
    assert client.files.content(kept.id).content == CONTENT
    assert kept_in(tmp_path) == [kept.id]
    deleted = client.files.delete(kept.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (kept.id, True, "file")
    assert kept_in(tmp_path) == []
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            call(kept.id)


def test_it_outlives_a_restart(tmp_path: Path) -> None:
    with run_in_thread(keeping(tmp_path)) as server:
        kept = upload(client_of(server), CONTENT)
    with run_in_thread(keeping(tmp_path)) as server:
        assert client_of(server).files.content(kept.id).content == CONTENT


def test_files_are_listed_page_by_page_in_either_order(client: openai.OpenAI) -> None:
    made = [upload(client, CONTENT).id for _ in range(4)]
    batch = end(client, begin(client, CONTENT))
    inputs = [*made, batch.input_file_id]
    listed = client.files.list(purpose="batch", order="asc", limit=2)
    assert [file.id for file in listed.data] == inputs[:2]
    assert listed.has_more
    assert [file.id for file in listed] == inputs
    assert [file.id for file in client.files.list(purpose="batch")] == inputs[::-1]
    assert [file.id for file in client.files.list(after=made[2])] == inputs[1::-1]
    outputs = client.files.list(purpose="batch_output")
    assert [file.id for file in outputs] == [batch.output_file_id]
    for query in ("limit=0", "limit=10001", "order=up", "colour=red", "limit=1&limit=2"):
        answer = httpx.get(f"{client.base_url}files?{query}")
        assert answer.status_code == 400, query
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_file_may_expire(
    client: openai.OpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = client.files.create(
        file=("a.jsonl", CONTENT),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert kept.expires_at == kept.created_at + 3600
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 3601)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(kept.id)
    assert not client.files.list().data
    with run_in_thread(keeping(tmp_path)) as server:  # which looks at the start
        client_of(server).files.list()
        deadline = time.monotonic() + 30
        while kept_in(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert kept_in(tmp_path) == []


def test_what_a_batch_reads_is_not_deleted(tmp_path: Path) -> None:
    gate = Gate()
    load = loading(lambda _: FakeBackend(before_forward=gate))
    with run_in_thread(keeping(tmp_path), load) as server:
        client = client_of(server)
        batch = begin(client, CONTENT)
        assert gate.held.wait(30)
        with pytest.raises(openai.ConflictError, match=batch.id):
            client.files.delete(batch.input_file_id)
        gate.opened.set()
        end(client, batch)
        assert client.files.delete(batch.input_file_id).deleted


@pytest.mark.parametrize("purpose", ["assistants", "fine-tune", "user_data"])
def test_other_purposes_are_refused(
    client: openai.OpenAI, tmp_path: Path, purpose: openai.types.FilePurpose
) -> None:
    with pytest.raises(openai.BadRequestError, match=f"'{purpose}' is not one of") as refused:
        client.files.create(file=("a.jsonl", CONTENT), purpose=purpose)
    assert refused.value.param == "purpose"
    assert kept_in(tmp_path) == []


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"files": {"file": ("a", CONTENT)}}, 400, "purpose"),
        ({"files": {"other": ("a", CONTENT)}, "data": {"purpose": "batch"}}, 400, "file"),
        ({"files": {"file": ("a", b"")}, "data": {"purpose": "batch"}}, 400, "file"),
        ({"files": [("file", ("a", b"x"))] * 2, "data": {"purpose": "batch"}}, 400, "file"),
        ({"files": {"file": ("a", b"x")}, "data": {"purpose": "batch", "x": "y"}}, 400, "x"),
        ({"files": {"file": ("a", b"x")}, "data": {"purpose": "b" * 20_000}}, 400, "purpose"),
        (
            {
                "files": {"file": ("a", b"x")},
                "data": {
                    "purpose": "batch",
                    "expires_after[anchor]": "created_at",
                    "expires_after[seconds]": "60",
                },
            },
            400,
            "expires_after.seconds",
        ),
        ({"json": {"purpose": "batch"}}, 415, None),
        ({"headers": {"content-type": "multipart/form-data"}, "content": b"x"}, 415, None),
        (
            {"headers": {"content-type": "multipart/form-data; boundary=b"}, "content": b"x"},
            400,
            None,
        ),
        (
            {
                "headers": {"content-type": "multipart/form-data; boundary=b"},
                "content": b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n'
                b"\r\nhalf of it",
            },
            400,
            None,
        ),
    ],
)
def test_bad_forms_are_told_what_is_wrong_and_leave_nothing(
    server: RunningServer,
    tmp_path: Path,
    fields: dict[str, object],
    status: int,
    param: str | None,
) -> None:
    answer = post(server, **fields)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param
    assert answer.headers["openai-version"]
    assert kept_in(tmp_path) == []


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_file_that_is_too_large_is_refused(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_announced: bool
) -> None:
    monkeypatch.setattr(openai_files, "MOST_BYTES", 1000)
    form = httpx.Request(
        "POST", server.url, files={"file": ("a", bytes(3_000_000))}, data={"purpose": "batch"}
    )
    content = form.read()
    chunks = content if is_announced else iter([content[:2000], content[2000:]])
    headers = {"content-type": form.headers["content-type"]}
    try:
        answer = post(server, content=chunks, headers=headers)
    except httpx.WriteError:  # the server has hung up on the rest
        pass
    else:
        assert answer.status_code == 413
        assert "1000 bytes" in answer.text
    assert kept_in(tmp_path) == []


def test_a_large_file_takes_no_memory(tmp_path: Path) -> None:
    size = 150_000_000
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        file.truncate(size)
    with run_process("--data-dir", str(tmp_path / "data"), fresh=True) as server:
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        client = client_of(server)
        upload(client, CONTENT)
        before = process.memory_info().rss
        kept = client.files.create(file=path, purpose="batch")
        assert kept.bytes == size
        grown = process.memory_info().rss - before
        assert grown < 60_000_000
        with client.files.with_streaming_response.content(kept.id) as answer:
            assert sum(map(len, answer.iter_bytes())) == size
        assert process.memory_info().rss - before < 60_000_000


def test_where_there_is_no_room_nothing_is_left(tmp_path: Path) -> None:
    with run_process("--data-dir", str(tmp_path)) as server:
        assert server.process is not None
        client = client_of(server)
        small = upload(client, CONTENT)
        limits = (3_000_000, resource.RLIM_INFINITY)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
        with pytest.raises(openai.InternalServerError, match="could not be kept"):
            upload(client, bytes(5_000_000))
        assert kept_in(tmp_path) == [small.id]
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
        assert upload(client, bytes(5_000_000)).bytes == 5_000_000


def test_what_a_killed_upload_has_left_is_cleared(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    old, new = folder / "file-old.tmp", folder / "file-new.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    with run_in_thread(keeping(tmp_path)):
        deadline = time.monotonic() + 30
        while old.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert kept_in(tmp_path) == ["file-new.tmp"]
