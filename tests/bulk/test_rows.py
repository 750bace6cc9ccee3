# SPDX-License-Identifier: Apache-2.0
"""Options, and rows that cannot be embedded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from appliance.bulk.command import embed_file
from appliance.engine.backend import Room
from appliance.engine.jobs import Batch
from appliance.settings import ModelSettings, Settings
from tests.bulk.helpers import assert_vectors, embed, expected, parse, read_rows, work_folder
from tests.fakes import FakePrepared, FakeTokenizer, fake_vector, load_fake, word_id

LONG = "long " * 40
"""More than the 32 tokens that the fake model reads."""


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("a b\nc\n")
    return path


@pytest.mark.parametrize(
    ("flags", "prompt"),
    [
        (["--prompt", "say: "], "say: "),
        (["--prompt-name", "passage"], "fact: "),
        (["--input-type", "query"], "find: "),
    ],
)
def test_prompts(flags: list[str], prompt: str, texts: Path, tmp_path: Path) -> None:
    assert embed(texts, "--out", tmp_path / "out.npy", *flags) == 0
    found = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(found, [expected(prompt + "a b"), expected(prompt + "c")], atol=1e-6)


def test_dimensions_and_length(texts: Path, tmp_path: Path) -> None:
    assert embed(texts, "--out", tmp_path / "cut.npy", "--dimensions", 3) == 0
    found = np.load(tmp_path / "cut.npy")
    np.testing.assert_allclose(found, [expected("a b", 3), expected("c", 3)], atol=1e-6)
    assert embed(texts, "--out", tmp_path / "raw.npy", "--no-normalize") == 0
    own = fake_vector(FakeTokenizer().encode(["c"])[0])
    np.testing.assert_allclose(np.load(tmp_path / "raw.npy")[1], own, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dimensions", "9"], "between 1 and 8"),
        (["--prompt-name", "none"], "it has: 'query', 'passage'"),
        (["--model", "a b"], "cannot stand in a URL"),
    ],
)
def test_what_the_model_cannot_do_is_told_before_any_work(
    flags: list[str],
    message: str,
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert embed(texts, "--out", tmp_path / "out.npy", *flags) == 2
    assert message in capsys.readouterr().err
    assert not work_folder(tmp_path / "out.npy").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--out", "out.txt"],
        ["--out", "out.npy", "--dimensions", "0"],
        ["--out", "out.npy", "--prompt", "a", "--prompt-name", "b"],
        ["--out", "out.npy", "--format", "json"],
        [],
    ],
)
def test_bad_flags_exit_with_2(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("in.txt", *flags)
    assert stop.value.code == 2


@pytest.mark.parametrize("out", ["gone/out.npy", "folder.npy", "in.jsonl"])
def test_an_output_that_cannot_be_is_refused(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "folder.npy").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert embed(tmp_path / "in.jsonl", "--out", tmp_path / out, "--overwrite") == 2
    assert out.partition("/")[0] in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_is_named_as_for_the_server(texts: Path, tmp_path: Path) -> None:
    loaded: list[ModelSettings] = []

    def embed_with(model: str | None) -> ModelSettings:
        configured = (ModelSettings(model="a/one"), ModelSettings(model="b", aliases=("two",)))
        flags = ["--model", model] if model else []
        arguments = parse(texts, "--out", tmp_path / "out.npy", "--overwrite", *flags)

        def load(
            settings: Settings, chosen: ModelSettings, rooms: Mapping[str, Room]
        ) -> FakePrepared:
            loaded.append(chosen)
            return load_fake(settings, chosen, rooms)

        assert embed_file(Settings(models=configured), arguments, load) == 0
        return loaded.pop()

    assert [embed_with(name).model for name in (None, "two", "c/three")] == [
        "a/one",
        "b",
        "c/three",
    ]
    assert not loaded


def test_limits_for_clients_do_not_bite(tmp_path: Path) -> None:
    model = ModelSettings(
        model="fake/model",
        max_client_batch_size=2,
        max_request_tokens=10,
        max_concurrent_requests=1,
        max_queue_tokens=10,
        payload_limit=10,
    )
    (tmp_path / "in.txt").write_text("some words of text\n" * 2000)
    settings = Settings(models=(model,), model_wait_seconds=0)
    assert embed(tmp_path / "in.txt", "--out", tmp_path / "out.npy", settings=settings) == 0
    assert len(np.load(tmp_path / "out.npy")) == 2000


def test_long_texts_are_cut_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [LONG if number in (3, 400) else f"text {number}" for number in range(600)]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    assert embed(tmp_path / "in.txt", "--out", tmp_path / "out.npy") == 0
    assert "texts cut to the length that the model reads: 2\n" in capsys.readouterr().err
    found = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(found[[3, 400]], [expected("long " * 30)] * 2, atol=1e-6)


def test_a_long_text_may_be_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [LONG if number in (399, 400, 512) else f"text {number}" for number in range(600)]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    flags = (tmp_path / "in.txt", "--out", tmp_path / "out.npy", "--no-truncate")
    assert embed(*flags) == 1
    told = capsys.readouterr().err
    assert "line 400: the text is longer than the model reads" in told
    assert "the first 256 rows are kept" in told
    # The rule may change, as no row that is done has met it.
    assert embed(*flags, "--on-error", "null") == 0
    assert "rows without a vector: 3\n" in capsys.readouterr().err
    empty = np.isnan(np.load(tmp_path / "out.npy")).all(axis=1)
    assert empty.nonzero()[0].tolist() == [399, 400, 512]


NO_TEXT = {
    '{"text": ""}': "the text is empty",
    '{"text": null}': "the text is null",
    '{"id": 1}': "the text is missing",
    '{"text": 5}': "in place of a text there is a number",
    '{"text": true}': "in place of a text there is true or false",
    '{"text": ["a"]}': "in place of a text there is a list",
    '{"text": {}}': "in place of a text there is an object",
}


@pytest.mark.parametrize("line", NO_TEXT)
def test_a_row_without_text_stops_the_work_and_says_where(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = [json.dumps({"text": f"text {number}"}) for number in range(300)]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join([*sound, line, *sound]))
    assert embed(source, "--out", out) == 1
    told = capsys.readouterr().err
    assert f"line 301: {NO_TEXT[line]}; with --on-error null" in told
    assert not out.exists()
    # Rows that are done need not be done again when the row is mended.
    source.write_text("\n".join([*sound, '{"text": "mended"}', *sound]))
    assert embed(source, "--out", out) == 0
    assert_vectors(read_rows(out))
    assert len(read_rows(out)) == 601


@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet", "out.npy"])
def test_rows_without_text_may_go_without_vector(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text("\n".join(['{"text": "a"}', *NO_TEXT, '{"text": "b"}']))
    code = embed(tmp_path / "in.jsonl", "--out", tmp_path / out, "--on-error", "null")
    assert code == 0
    assert f"rows without a vector: {len(NO_TEXT)}\n" in capsys.readouterr().err
    if out == "out.npy":
        vectors = list(np.load(tmp_path / out))
        empty = [np.isnan(vector).all() for vector in vectors]
    else:
        vectors = [row["embedding"] for row in read_rows(tmp_path / out)]
        empty = [vector is None for vector in vectors]
    assert empty == [False, *[True] * len(NO_TEXT), False]
    np.testing.assert_allclose([vectors[0], vectors[-1]], [expected("a"), expected("b")], atol=1e-6)


def test_a_blank_line_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").write_bytes(b"a\r\n\r\nb\r\n")
    flags = (tmp_path / "in.txt", "--out", tmp_path / "out.parquet")
    assert embed(*flags) == 1
    assert "line 2: the text is empty" in capsys.readouterr().err
    assert embed(*flags, "--on-error", "null") == 0
    assert pq.read_table(tmp_path / "out.parquet")["embedding"].is_null().to_pylist() == [
        False,
        True,
        False,
    ]


def fail_on(word: str) -> Callable[[Batch], None]:
    def before_forward(batch: Batch) -> None:
        if word_id(word) in batch.input_ids:
            raise RuntimeError("no such luck")

    return before_forward


def test_a_text_that_the_model_fails_on_fails_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["poison" if number == 77 else f"text {number}" for number in range(300)]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    flags = (tmp_path / "in.txt", "--out", tmp_path / "out.npy")
    assert embed(*flags, before_forward=fail_on("poison")) == 1
    assert "line 78: the model makes no vector of the text" in capsys.readouterr().err
    assert embed(*flags, "--on-error", "null", before_forward=fail_on("poison")) == 0
    found = np.load(tmp_path / "out.npy")
    assert np.isnan(found).any(axis=1).nonzero()[0].tolist() == [77]


def test_a_model_that_fails_on_everything_leaves_no_rows_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device that has died is no reason to write a file of nulls."""
    calls = iter(range(10**9))

    def before_forward(_: Batch) -> None:
        if next(calls) > 5:
            raise RuntimeError("the device is gone")

    (tmp_path / "in.txt").write_text("".join(f"text {number}\n" for number in range(5000)))
    flags = (tmp_path / "in.txt", "--out", tmp_path / "out.npy", "--on-error", "null")
    assert embed(*flags, before_forward=before_forward) == 1
    assert "the model failed (RuntimeError)" in capsys.readouterr().err
    assert embed(*flags) == 0
    assert math.isfinite(np.load(tmp_path / "out.npy").sum())


def test_a_model_that_cannot_be_loaded(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(models=(ModelSettings(model=str(tmp_path / "gone")),))
    assert embed_file(settings, parse(texts, "--out", tmp_path / "out.npy")) == 1
    assert "there is no folder" in capsys.readouterr().err
