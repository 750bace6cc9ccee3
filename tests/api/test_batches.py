# SPDX-License-Identifier: Apache-2.0
"""OpenAI's Batch API by its own SDK: what batches are, and what comes of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from appliance.batches import requests, running
from appliance.settings import ModelSettings
from tests.api.access import KEY, ask, create, guarded, secret
from tests.api.batching import (
    MODEL,
    assert_right,
    begin,
    client_of,
    end,
    keeping,
    line,
    lines_of,
    rows_of,
    upload,
    wait_for,
)
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakeBackend, loading
from tests.unit.tickets import Gate, until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    models = (
        ModelSettings(model=MODEL, aliases=("small",)),
        ModelSettings(model="other", max_client_batch_size=4),
    )
    with run_in_thread(keeping(tmp_path_factory.mktemp("data"), models=models)) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.OpenAI:
    return client_of(server)


def test_every_request_is_answered_in_order(client: openai.OpenAI) -> None:
    count = 300
    made = begin(client, lines_of(*map(line, range(count))), metadata={"job": "nightly"})
    assert made.status == "validating"
    assert made.object == "batch"
    batch = end(client, made)
    assert batch.status == "completed"
    assert batch.errors is None
    assert batch.error_file_id is None
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": count, "completed": count, "failed": 0}
    assert batch.metadata == {"job": "nightly"}
    assert batch.model == MODEL
    assert batch.usage is not None
    assert batch.usage.input_tokens == batch.usage.total_tokens == 4 * count
    assert batch.expires_at == batch.created_at + 24 * 3600
    moments = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert list(moments) == sorted(filter(None, moments))
    rows = rows_of(client, batch.output_file_id)
    assert_right(rows, range(count))
    first = rows[0]
    assert first.keys() == {"id", "custom_id", "response", "error"}
    assert first["id"].startswith("batch_req_")
    assert first["error"] is None
    assert first["response"].keys() == {"status_code", "request_id", "body"}
    assert first["response"]["status_code"] == 200
    assert first["response"]["body"]["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert first["response"]["body"]["model"] == MODEL
    assert batch.output_file_id is not None
    result = client.files.retrieve(batch.output_file_id)
    assert result.purpose == "batch_output"
    assert result.filename == f"{batch.id}_output.jsonl"
    assert result.bytes == len(client.files.content(batch.output_file_id).content)


def test_a_body_is_read_as_the_route_reads_it(client: openai.OpenAI, server: RunningServer) -> None:
    bodies = [
        {"model": "small", "input": ["a", "b c"], "encoding_format": "base64", "dimensions": 4},
        {"model": MODEL, "input": [5, 6], "token_encoding": "native", "output_dtype": "int8"},
        {"model": MODEL, "input": "a b", "prompt": "say: ", "normalize": False, "priority": "high"},
    ]
    content = lines_of(*(line(number) | {"body": body} for number, body in enumerate(bodies)))
    batch = end(client, begin(client, content))
    rows = [*rows_of(client, batch.output_file_id)]
    for body, row in zip(bodies, rows, strict=False):
        assert row["response"]["body"] == server.embed(**body).json()


def test_a_bad_body_is_a_row_of_the_error_file(
    client: openai.OpenAI, server: RunningServer
) -> None:
    bad = [
        {"model": MODEL, "input": ""},
        {"model": MODEL, "input": "one " * 50},
        {"model": "other", "input": ["a"] * 5},
        {"model": MODEL, "input": ["a", 1]},
        {"model": MODEL},
        {"input": "a"},
        {"model": MODEL, "input": "a", "encoding_format": "hex"},
        {"model": MODEL, "input": "a", "colour": "red"},
    ]
    requests_ = [line(number) for number in range(20)]
    for number, body in enumerate(bad):
        requests_[2 * number + 1]["body"] = body
    batch = end(client, begin(client, lines_of(*requests_)))
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 20, "completed": 12, "failed": 8}
    assert_right(rows_of(client, batch.output_file_id), [*range(0, 16, 2), *range(16, 20)])
    rows = rows_of(client, batch.error_file_id)
    assert [row["custom_id"] for row in rows] == [f"request-{2 * n + 1}" for n in range(8)]
    for body, row in zip(bad, rows, strict=True):
        answer = server.embed(**body)
        assert row["error"] is None
        assert row["response"]["status_code"] == answer.status_code
        assert row["response"]["body"] == answer.json()


def test_only_errors_make_only_an_error_file(client: openai.OpenAI) -> None:
    batch = end(client, begin(client, lines_of(line(0, input=""), line(1, input=""))))
    assert batch.status == "completed"
    assert batch.output_file_id is None
    assert len(rows_of(client, batch.error_file_id)) == 2


def test_faults_of_a_file_are_told_with_their_lines(client: openai.OpenAI) -> None:
    content = lines_of(
        line(0),
        b"{not json",
        line(1),
        line(0),
        line(2) | {"method": "GET"},
        line(3) | {"url": "/v1/chat/completions"},
        line(4, model="unknown"),
        {"custom_id": "x", "method": "POST", "body": {}},
        line(5) | {"custom_id": 5},
        b"[1]",
        b"",
        line(6) | {"custom_id": ""},
    )
    batch = end(client, begin(client, content))
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.output_file_id is None
    assert batch.errors is not None
    assert batch.errors.object == "list"
    assert [(error.code, error.param, error.line) for error in batch.errors.data or []] == [
        ("invalid_json_line", None, 2),
        ("duplicate_custom_id", "custom_id", 4),
        ("invalid_method", "method", 5),
        ("url_mismatch", "url", 6),
        ("model_not_found", "body.model", 7),
        ("missing_required_parameter", "url", 8),
        ("invalid_type", "custom_id", 9),
        ("invalid_json_line", None, 10),
        ("invalid_type", "custom_id", 12),
    ]
    assert all(error.message for error in batch.errors.data or [])


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\n \n", "empty_file"),
        (lines_of(*map(line, range(6))), "too_many_tasks"),
        (lines_of(line(0, input=["a"] * 4), line(1, input=["a"] * 4)), "too_many_inputs"),
    ],
)
def test_limits_of_a_file(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, content: bytes, code: str
) -> None:
    monkeypatch.setattr(requests, "MOST_REQUESTS", 5)
    monkeypatch.setattr(requests, "MOST_INPUTS", 7)
    batch = end(client, begin(client, content))
    assert batch.errors is not None
    assert [error.code for error in batch.errors.data or []] == [code]


def test_inputs_are_counted_whatever_their_form(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    forms = ["a text", ["a", "b"], [1, 2, 3], [[1, 2], [3]], [], None]
    path.write_bytes(lines_of(*(line(n, input=form) for n, form in enumerate(forms))))
    assert requests.survey(path, 1000).inputs == 1 + 2 + 1 + 2 + 0 + 1
    assert requests.MOST_REQUESTS == requests.MOST_INPUTS == 50_000


def test_what_a_batch_may_not_be(client: openai.OpenAI) -> None:
    kept = upload(client, lines_of(line(0)))
    good = {"input_file_id": kept.id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    for field, value in (
        ("input_file_id", "file-unknown"),
        ("endpoint", "/v1/chat/completions"),
        ("completion_window", "1h"),
        ("metadata", {str(number): "" for number in range(17)}),
        ("metadata", {"k": "v" * 513}),
        ("output_expires_after", {"anchor": "created_at", "seconds": 60}),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.post("/batches", cast_to=object, body={**good, field: value})
        assert str(refused.value.param or "").startswith(field)
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_unknown")
    with pytest.raises(openai.NotFoundError):
        client.batches.cancel("batch_unknown")


def test_results_are_no_input(client: openai.OpenAI) -> None:
    batch = end(client, begin(client, lines_of(line(0))))
    assert batch.output_file_id is not None
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.batches.create(
            input_file_id=batch.output_file_id,
            endpoint="/v1/embeddings",
            completion_window="24h",
        )


def test_batches_are_listed_page_by_page_the_newest_first(tmp_path: Path) -> None:
    with run_in_thread(keeping(tmp_path)) as server:
        client = client_of(server)
        made = [begin(client, lines_of(line(n))).id for n in range(5)]
        page = client.batches.list(limit=2)
        assert [batch.id for batch in page.data] == made[:2:-1]
        assert page.has_more
        assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
        assert [batch.id for batch in client.batches.list(after=made[1])] == made[:1]


class TestWhoMay:
    def test_keys_see_their_own_and_admins_all(self, tmp_path: Path) -> None:
        with run_in_thread(guarded(tmp_path)) as server:
            mine, other = (client_of(server, secret(server)) for _ in range(2))
            admin = client_of(server, KEY)
            batch = end(mine, begin(mine, lines_of(line(0))))
            assert batch.output_file_id is not None
            for hidden in (batch.input_file_id, batch.output_file_id):
                assert mine.files.retrieve(hidden).id == hidden
                assert admin.files.retrieve(hidden).id == hidden
                for call in (other.files.retrieve, other.files.content, other.files.delete):
                    with pytest.raises(openai.NotFoundError):
                        call(hidden)
            with pytest.raises(openai.NotFoundError):
                other.batches.retrieve(batch.id)
            with pytest.raises(openai.NotFoundError):
                other.batches.cancel(batch.id)
            with pytest.raises(openai.BadRequestError):
                other.batches.create(
                    input_file_id=batch.input_file_id,
                    endpoint="/v1/embeddings",
                    completion_window="24h",
                )
            assert not other.batches.list().data
            assert not other.files.list().data
            assert [found.id for found in admin.batches.list()] == [batch.id]
            own = begin(admin, lines_of(line(0)))
            with pytest.raises(openai.NotFoundError):
                mine.batches.retrieve(own.id)

    def test_its_tokens_are_counted_to_the_key(self, tmp_path: Path) -> None:
        with run_in_thread(guarded(tmp_path)) as server:
            made = create(server)
            client = client_of(server, made["secret"])
            end(client, begin(client, lines_of(*map(line, range(10)))))

            def tokens() -> int:
                found = ask(server, KEY, "GET", "/api/tokens").json()["tokens"]
                return int(next(t["tokens"] for t in found if t["id"] == made["token"]["id"]))

            until(lambda: tokens() == 40)

    def test_a_model_that_the_key_may_not_use_is_not_there(self, tmp_path: Path) -> None:
        with run_in_thread(guarded(tmp_path)) as server:
            client = client_of(server, secret(server, models=["other"]))
            batch = end(client, begin(client, lines_of(line(0, model="other"), line(1))))
            assert batch.errors is not None
            (error,) = batch.errors.data or []
            assert (error.code, error.line) == ("model_not_found", 2)

    def test_a_quota_of_tokens_is_waited_for(self, tmp_path: Path) -> None:
        with run_in_thread(guarded(tmp_path)) as server:
            client = client_of(server, secret(server, tokens_per_minute=6000))
            content = lines_of(*(line(n, input=f"text {n} " + "a " * 20) for n in range(300)))
            batch = end(client, begin(client, content))
            assert batch.request_counts is not None
            assert batch.request_counts.completed == 300

    def test_revoking_the_key_ends_its_batches(self, tmp_path: Path) -> None:
        gate = Gate()
        load = loading(lambda _: FakeBackend(before_forward=gate))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(running, "BEAT_SECONDS", 0.05)
            with run_in_thread(guarded(tmp_path), load) as server:
                made = create(server)
                batch = begin(client_of(server, made["secret"]), lines_of(*map(line, range(500))))
                assert gate.held.wait(30)
                path = f"/api/tokens/{made['token']['id']}"
                assert ask(server, KEY, "DELETE", path).status_code == 200
                admin = client_of(server, KEY)
                wait_for(admin, batch.id, lambda batch: batch.status != "in_progress")
                gate.opened.set()
                assert end(admin, batch).status == "cancelled"


class TestCancelling:
    def test_keeps_what_is_done(self, tmp_path: Path) -> None:
        seen, go_on = threading.Event(), threading.Event()
        count = 0

        def hold(batch: object) -> None:
            nonlocal count
            count += len(batch)  # type: ignore[arg-type]
            if count > 100:
                seen.set()
                assert go_on.wait(30)

        settings = keeping(tmp_path, cpu_workers=1)
        with run_in_thread(settings, loading(lambda _: FakeBackend(before_forward=hold))) as server:
            client = client_of(server)
            batch = begin(client, lines_of(*map(line, range(1000))))
            assert seen.wait(30)
            cancelled = client.batches.cancel(batch.id)
            assert cancelled.status in ("cancelling", "cancelled")
            assert cancelled.cancelling_at is not None
            go_on.set()
            batch = end(client, batch)
            assert batch.status == "cancelled"
            assert batch.cancelled_at is not None
            assert batch.request_counts is not None
            done = batch.request_counts.completed
            assert 0 < done < 1000
            assert_right(rows_of(client, batch.output_file_id), range(done))
            assert client.batches.list().data[0].status == "cancelled"
            with pytest.raises(openai.ConflictError, match="cancelled"):
                client.batches.cancel(batch.id)

    def test_of_one_that_waits_ends_it_without_results(self, tmp_path: Path) -> None:
        gate = Gate()
        settings = keeping(tmp_path, cpu_workers=1)
        load = loading(lambda _: FakeBackend(before_forward=gate))
        with run_in_thread(settings, load) as server:
            client = client_of(server)
            first = begin(client, lines_of(line(0)))
            assert gate.held.wait(30)
            second = begin(client, lines_of(line(1)))
            assert client.batches.cancel(second.id).status == "cancelling"
            gate.opened.set()
            assert end(client, first).status == "completed"
            second = end(client, second)
            assert second.status == "cancelled"
            assert second.output_file_id is None


def test_what_there_was_no_time_for_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "BEAT_SECONDS", 0.05)
    seen = threading.Event()

    def slow(batch: object) -> None:
        if seen.wait(0.02):
            return

    settings = keeping(tmp_path, cpu_workers=1)
    with run_in_thread(settings, loading(lambda _: FakeBackend(before_forward=slow))) as server:
        monkeypatch.setattr("appliance.batches.records.WINDOW_SECONDS", 2)
        client = client_of(server)
        count = 40_000
        batch = end(client, begin(client, lines_of(*map(line, range(count)))))
        assert batch.status == "expired"
        assert batch.expired_at is not None
        assert batch.request_counts is not None
        done = batch.request_counts.completed
        assert 0 < done < count
        assert batch.request_counts.failed == count - done
        assert_right(rows_of(client, batch.output_file_id), range(done))
        rows = rows_of(client, batch.error_file_id)
        assert [row["custom_id"] for row in rows] == [f"request-{n}" for n in range(done, count)]
        assert rows[0]["response"] is None
        assert rows[0]["error"]["code"] == "batch_expired"


def test_without_a_folder_it_is_told_what_to_set() -> None:
    with run_in_thread() as server:
        client = client_of(server)
        for call in (client.files.list, client.batches.list):
            with pytest.raises(openai.ConflictError, match="set data_dir"):
                call()
        with pytest.raises(openai.ConflictError, match="set data_dir"):
            upload(client, lines_of(line(0)))
        with pytest.raises(openai.ConflictError, match="set data_dir"):
            client.batches.create(
                input_file_id="x", endpoint="/v1/embeddings", completion_window="24h"
            )


def test_a_running_batch_is_no_idleness(tmp_path: Path) -> None:
    gate = Gate()
    load = loading(lambda _: FakeBackend(before_forward=gate))
    with run_in_thread(keeping(tmp_path), load) as server:
        client = client_of(server)
        batch = begin(client, lines_of(line(0)))
        assert gate.held.wait(30)
        status = httpx.get(f"{server.url}/api/status").json()
        assert status["instance"]["idle_seconds"] == 0
        gate.opened.set()
        assert end(client, batch).status == "completed"
