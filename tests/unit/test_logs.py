# SPDX-License-Identifier: Apache-2.0
"""The log: its lines, and its end in memory."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from appliance.logs import CONSOLE_ONLY, LogTail, configure_logging, current_request_id
from appliance.settings import Settings

SPAN = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1))
TRACE_ID, SPAN_ID = "abc".zfill(32), "def".zfill(16)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The root logger, as it was before the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    for handler in handlers:  # or basicConfig would close them
        root.removeHandler(handler)
    yield
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


@pytest.fixture
def logger() -> logging.Logger:
    return logging.getLogger("appliance.test")


def written(tail: LogTail) -> list[str]:
    return [entry.message for entry in tail.read()[0]]


def lines(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_json_line_carries_all_there_is(
    capsys: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    configure_logging(Settings(log_json=True))
    token = current_request_id.set("req_1")
    with trace.use_span(NonRecordingSpan(SPAN)):
        logger.warning("ünusual: %s", "a\nb")
    current_request_id.reset(token)
    (line,) = lines(capsys)
    moment = datetime.fromisoformat(line.pop("time"))
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
    assert line == {
        "level": "warning",
        "logger": "appliance.test",
        "message": "ünusual: a\nb",
        "trace_id": TRACE_ID,
        "span_id": SPAN_ID,
        "request_id": "req_1",
    }


def test_a_json_line_carries_the_exception(
    capsys: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    configure_logging(Settings(log_json=True))
    try:
        int("oops")
    except ValueError:
        logger.exception("failed")
    logger.info("fine", extra={"color_message": "\x1b[0m", "model": "m"})
    failed, fine = lines(capsys)
    assert failed["level"] == "error"
    assert failed["exception"].endswith("'oops'")
    assert failed["trace_id"] is None
    assert fine["model"] == "m"
    assert "color_message" not in fine


def test_a_line_of_text_names_the_trace_if_there_is_one(
    capsys: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    configure_logging(Settings())
    with trace.use_span(NonRecordingSpan(SPAN)):
        logger.info("within")
    logger.info("without")
    within, without = capsys.readouterr().err.splitlines()
    assert within.endswith(f"INFO appliance.test: within [trace {TRACE_ID}]")
    assert without.endswith("INFO appliance.test: without")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"log_level": "warning"}, ["c"]),
        ({"log_level": "debug"}, ["a", "b", "c"]),
        ({"log_level": "error", "debug": True}, ["a", "b", "c"]),
        ({}, ["b", "c"]),
    ],
)
def test_what_is_less_severe_is_neither_written_nor_kept(
    settings: dict[str, Any], expected: list[str], logger: logging.Logger
) -> None:
    tail = configure_logging(Settings(**settings))
    logger.debug("a")
    logger.info("b")
    logger.warning("c")
    logging.getLogger("aiosqlite").debug("executing with every value in clear")
    assert written(tail) == expected


@pytest.mark.parametrize("debug", [False, True])
def test_debug_adds_what_caused_a_warning(
    *, debug: bool, capsys: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    tail = configure_logging(Settings(debug=debug))
    try:
        int("the cause")
    except ValueError as error:
        logger.warning("told shortly")
        logger.info("told: %s", type(error).__name__)
    assert capsys.readouterr().err.count("Traceback") == int(debug)
    assert [("the cause" in message) for message in written(tail)] == [debug, False]


def test_an_entry_of_the_tail_tells_who_when_and_where(logger: logging.Logger) -> None:
    tail = LogTail()
    logger.addHandler(tail)
    with trace.use_span(NonRecordingSpan(SPAN)):
        logger.critical("%d%%", 5)
    logger.removeHandler(tail)
    (entry,), missed, newest = tail.read()
    assert (entry.id, entry.level, entry.logger, entry.message) == (1, "error", logger.name, "5%")
    assert (entry.trace_id, missed, newest) == (TRACE_ID, 0, 1)
    assert abs(entry.time - datetime.now(UTC).timestamp()) < 60


def test_what_is_for_the_console_only_is_not_kept(
    capsys: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    tail = configure_logging(Settings(log_json=True))
    logger.warning("the key: %s", "planted", extra={CONSOLE_ONLY: True})
    assert written(tail) == []
    (line,) = lines(capsys)
    assert line["message"] == "the key: planted"
    assert CONSOLE_ONLY not in line


def test_the_tail_keeps_the_last_entries_within_its_bounds() -> None:
    tail = LogTail(most_entries=10, most_bytes=5000)
    record = logging.makeLogRecord({"msg": "x", "levelno": logging.INFO})
    for _ in range(25):
        tail.handle(record)
    entries, missed, newest = tail.read(12)
    assert ([entry.id for entry in entries], missed, newest) == (list(range(16, 26)), 3, 25)
    assert [entry.id for entry in tail.read(23)[0]] == [24, 25]
    assert tail.read(25) == ([], 0, 25)
    assert len(tail.read(99)[0]) == 10, "a cursor of an earlier process"
    tail.handle(logging.makeLogRecord({"msg": "y" * 1_000_000, "levelno": logging.INFO}))
    assert tail.read()[0] == [], "larger than all that may be kept"
    tail = LogTail(most_bytes=50_000)
    for _ in range(100):
        tail.handle(logging.makeLogRecord({"msg": "y" * 1_000_000, "levelno": logging.INFO}))
    entries, _, _ = tail.read()
    assert sum(len(entry.message) for entry in entries) <= 50_000
    assert len(entries) == 6


def test_many_threads_lose_nothing() -> None:
    tail = LogTail()
    record = logging.makeLogRecord({"msg": "x", "levelno": logging.INFO})
    threads = [
        threading.Thread(target=lambda: [tail.handle(record) for _ in range(500)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries, _, newest = tail.read()
    assert [entry.id for entry in entries] == list(range(1, newest + 1)) == list(range(1, 4001))


def test_a_message_that_does_not_fit_its_arguments_breaks_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tail = LogTail()
    tail.handle(logging.makeLogRecord({"msg": "%d", "args": ("x",), "levelno": logging.INFO}))
    assert written(tail) == []
    assert "--- Logging error ---" in capsys.readouterr().err
