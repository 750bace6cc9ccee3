# SPDX-License-Identifier: Apache-2.0
"""``appliance embed`` in this process, with a model without weights; and what it has written."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq

from appliance.bulk.arguments import EmbedArguments, add_embed_flags, take_embed_arguments
from appliance.bulk.command import embed_file
from appliance.bulk.folder import Manifest
from appliance.engine.jobs import Batch
from appliance.settings import ModelSettings, Settings
from tests.fakes import FakeBackend, FakePrepared, FakeTokenizer, fake_vector

SETTINGS = Settings(models=(ModelSettings(model="fake/model", name="fake"),))


def parse(*flags: object) -> EmbedArguments:
    parser = argparse.ArgumentParser()
    add_embed_flags(parser)
    return take_embed_arguments(parser.parse_args([str(flag) for flag in flags]))


def embed(
    *flags: object,
    before_forward: Callable[[Batch], None] | None = None,
    settings: Settings = SETTINGS,
    load_seconds: float = 0,
    **of_model: Any,
) -> int:
    """Run the command; returns its exit code."""

    def load(*_: object) -> FakePrepared:
        time.sleep(load_seconds)
        return FakePrepared(lambda: FakeBackend(before_forward=before_forward, **of_model))

    return embed_file(settings, parse(*flags), load)


def run_command(*flags: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the real command, with the real model unless another is named."""
    return subprocess.run(
        command(*flags), env=environment(), capture_output=True, text=True, timeout=300, **options
    )


def command(*flags: object) -> list[str]:
    return [sys.executable, "-m", "appliance", "embed", *(str(flag) for flag in flags)]


_FAKE_COMMAND = """
import resource, sys, time
from tests.bulk.helpers import embed
seconds, most_bytes, *flags = sys.argv[1:]
if int(most_bytes) >= 0:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most_bytes), int(most_bytes)))
sys.exit(embed(*flags, load_seconds=float(seconds)))
"""


def fake_command(*flags: object, load_seconds: float = 0, most_bytes: int = -1) -> list[str]:
    """The command with a model without weights.

    Args:
        flags: The command's.
        load_seconds: Time that the model takes to load.
        most_bytes: Size that no file may exceed; any, if negative.
    """
    own = (load_seconds, most_bytes, *flags)
    return [sys.executable, "-c", _FAKE_COMMAND, *(str(argument) for argument in own)]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("APPLIANCE_")}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[2])}


def expected(text: str, dimensions: int = 8) -> np.ndarray:
    """The fake model's vector for a text, of unit length."""
    vector = fake_vector(FakeTokenizer().encode([text])[0])[:dimensions]
    return vector / np.linalg.norm(vector)


def read_rows(out: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL or Parquet output."""
    if out.suffix == ".jsonl":
        return [json.loads(line) for line in out.read_bytes().split(b"\n")[:-1]]
    rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return rows


def assert_vectors(rows: Sequence[dict[str, Any]], column: str = "text") -> None:
    """Each row has its own text's vector."""
    found = np.array([row["embedding"] for row in rows], dtype=np.float32)
    np.testing.assert_allclose(found, [expected(row[column]) for row in rows], atol=1e-6)


def work_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def read_manifest(out: Path) -> Manifest | None:
    try:
        content = (work_folder(out) / "manifest.json").read_bytes()
    except FileNotFoundError:
        return None
    return msgspec.json.decode(content, type=Manifest)


def rows_done(out: Path) -> int:
    manifest = read_manifest(out)
    return manifest.rows if manifest else 0


def write_lines(path: Path, count: int) -> list[str]:
    """A file of different texts, some of many words."""
    texts = [f"row {number} " + "word " * (number % 7) + "end" for number in range(count)]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return texts
