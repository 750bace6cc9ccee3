# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from appliance.engine.calibration import (
    KEPT_RANGES,
    RUN,
    Calibration,
    CalibrationSource,
    read_calibration,
)
from appliance.engine.types import FloatMatrix
from appliance.engine.vectors import ranges_of
from appliance.errors import InvalidRequest, ModelUnavailable, Overloaded

DIMENSION = 4
TEXTS = [f"text {number}" for number in range(150)]


def vectors_of(texts: Sequence[str]) -> FloatMatrix:
    seeds = [int(text.split()[1]) for text in texts]
    rows = [np.random.default_rng(seed).normal(size=DIMENSION) for seed in seeds]
    return np.array(rows, dtype=np.float32)


class Embedder:
    """Embeds when it is let, and remembers what it was asked for."""

    def __init__(self, *failures: Exception) -> None:
        self.asked: list[str] = []
        self.failures = list(failures)
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def __call__(self, texts: Sequence[str]) -> FloatMatrix:
        await self.may_go_on.wait()
        if self.failures:
            raise self.failures.pop()
        self.asked += texts
        return vectors_of(texts)


def calibrate(
    embed: Embedder, source: CalibrationSource = TEXTS, *, unit: bool = True
) -> Calibration:
    return Calibration("m", source, dimension=DIMENSION, normalized=unit, embed=embed)


async def test_ranges_are_those_of_all_texts_after_cut_and_scaling() -> None:
    calibration = calibrate(Embedder())
    for dimensions in (None, 1, 3, DIMENSION):
        for normalize in (True, False):
            np.testing.assert_array_equal(
                await calibration.ranges(dimensions, normalize),
                ranges_of(vectors_of(TEXTS), dimensions=dimensions, normalize=normalize),
            )


async def test_texts_are_embedded_once_and_a_part_at_a_time() -> None:
    embed = Embedder()
    sizes: list[int] = []

    async def noting(texts: Sequence[str]) -> FloatMatrix:
        sizes.append(len(texts))
        return await embed(texts)

    calibration = Calibration("m", TEXTS, dimension=DIMENSION, normalized=True, embed=noting)
    assert not embed.asked
    for dimensions in (None, 2, 3, None):
        await calibration.ranges(dimensions, True)
    assert embed.asked == TEXTS
    assert max(sizes) <= RUN


async def test_first_requests_at_once_share_the_work() -> None:
    embed = Embedder()
    embed.may_go_on.clear()
    calibration = calibrate(embed)
    waiting = [asyncio.create_task(calibration.ranges(size, True)) for size in (None, 2, 2, 3)]
    await asyncio.sleep(0)
    embed.may_go_on.set()
    await asyncio.gather(*waiting)
    assert embed.asked == TEXTS


async def test_a_client_that_leaves_takes_nothing_from_the_others() -> None:
    embed = Embedder()
    embed.may_go_on.clear()
    calibration = calibrate(embed)
    first = asyncio.create_task(calibration.ranges(None, True))
    second = asyncio.create_task(calibration.ranges(None, True))
    await asyncio.sleep(0)
    first.cancel()
    embed.may_go_on.set()
    assert (await second).shape == (2, DIMENSION)
    assert first.cancelled()
    assert embed.asked == TEXTS


async def test_a_failure_is_told_to_all_who_wait_and_tried_again_for_the_next() -> None:
    embed = Embedder(Overloaded("full", retry_after=1))
    embed.may_go_on.clear()
    calibration = calibrate(embed)
    waiting = [asyncio.create_task(calibration.ranges(None, True)) for _ in range(3)]
    await asyncio.sleep(0)
    embed.may_go_on.set()
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in told] == [Overloaded] * 3
    assert (await calibration.ranges(None, True)).shape == (2, DIMENSION)
    assert embed.asked == TEXTS


async def test_a_failure_that_nobody_waits_for_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    embed = Embedder(RuntimeError("gone"))
    embed.may_go_on.clear()
    calibration = calibrate(embed)
    alone = asyncio.create_task(calibration.ranges(None, True))
    await asyncio.sleep(0)
    alone.cancel()
    embed.may_go_on.set()
    await asyncio.sleep(0.01)
    assert "model m: calibration: gone" in caplog.text
    assert (await calibration.ranges(None, True)).shape == (2, DIMENSION)


async def test_a_text_that_the_model_cannot_read_is_left_out() -> None:
    async def embed(texts: Sequence[str]) -> FloatMatrix:
        if "text 7" in texts:
            raise InvalidRequest("input[7] has no token that the model knows.")
        return vectors_of(texts)

    calibration = Calibration("m", TEXTS, dimension=DIMENSION, normalized=True, embed=embed)
    rest = [text for text in TEXTS if text != "text 7"]
    np.testing.assert_array_equal(
        await calibration.ranges(None, True),
        ranges_of(vectors_of(rest), dimensions=None, normalize=True),
    )


async def test_a_model_that_reads_hardly_any_text_says_so_without_trying_twice() -> None:
    asked: list[str] = []

    async def embed(texts: Sequence[str]) -> FloatMatrix:
        asked.extend(texts)
        raise InvalidRequest("no token")

    calibration = Calibration("m", TEXTS, dimension=DIMENSION, normalized=True, embed=embed)
    with pytest.raises(ModelUnavailable, match="reads 0, and 100 are needed"):
        await calibration.ranges(None, True)
    tries = len(asked)
    with pytest.raises(ModelUnavailable, match="reads 0"):
        await calibration.ranges(2, True)
    assert len(asked) == tries


async def test_not_every_size_ever_asked_for_is_kept() -> None:
    size = KEPT_RANGES + 20
    rows = np.random.default_rng(0).normal(size=(100, size)).astype(np.float32)
    calibration = Calibration("m", rows, dimension=size, normalized=True, embed=Embedder())
    for dimensions in range(1, size + 1):
        await calibration.ranges(dimensions, True)
    assert len(calibration._found) == KEPT_RANGES
    np.testing.assert_array_equal(
        await calibration.ranges(3, True), ranges_of(rows, dimensions=3, normalize=True)
    )


async def test_embeddings_from_a_file_need_no_model() -> None:
    embed = Embedder()
    rows = vectors_of(TEXTS)
    calibration = calibrate(embed, rows)
    calibration.check(2, True)
    np.testing.assert_array_equal(
        await calibration.ranges(2, True), ranges_of(rows, dimensions=2, normalize=True)
    )
    assert not embed.asked


RANGES = np.array([[-1, -2, -3, -4], [1, 2, 3, 4]], dtype=np.float32)


async def test_ranges_from_a_file_are_used_as_they_are() -> None:
    calibration = calibrate(Embedder(), RANGES)
    calibration.check(None, True)
    calibration.check(DIMENSION, True)
    assert (await calibration.ranges(None, True)).tolist() == RANGES.tolist()


async def test_ranges_from_a_file_hold_for_no_other_vectors() -> None:
    calibration = calibrate(Embedder(), RANGES)
    with pytest.raises(InvalidRequest, match="whole vectors of unit length") as refused:
        calibration.check(2, True)
    assert refused.value.param == "dimensions"
    with pytest.raises(InvalidRequest, match="'calibration'") as refused:
        calibration.check(None, False)
    assert refused.value.param == "normalize"


async def test_ranges_of_vectors_that_are_not_scaled_hold_after_a_cut() -> None:
    calibration = calibrate(Embedder(), RANGES, unit=False)
    calibration.check(2, False)
    assert (await calibration.ranges(2, False)).tolist() == [[-1, -2], [1, 2]]
    with pytest.raises(InvalidRequest, match="as the model gives them"):
        calibration.check(None, True)


async def test_a_file_of_another_models_vectors_is_refused() -> None:
    with pytest.raises(ModelUnavailable, match=r"calibration: .* 4 values, .* vectors have 8"):
        Calibration("m", RANGES, dimension=8, normalized=True, embed=Embedder())


def test_texts_are_lines_each_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    lines = [f"Zeile {number} ü\u2028x" for number in range(100)]
    file.write_bytes(("\ufeff" + "\r\n".join([*lines, "", "  ", lines[0]])).encode())
    assert read_calibration(file) == lines


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("rows", [2, 100])
def test_arrays_are_read_as_float32(tmp_path: Path, rows: int, dtype: type) -> None:
    file = tmp_path / "mine.npy"
    wanted = np.arange(rows * 3).reshape(rows, 3).astype(dtype)
    np.save(file, wanted)
    read = read_calibration(file)
    assert isinstance(read, np.ndarray)
    assert read.dtype == np.float32
    assert read.tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, "No such file"),
        ("absent.npy", None, "No such file"),
        ("few.txt", b"a\nb\na\n", "holds 2 samples, but must hold 100 to 10000 different texts"),
        ("same.txt", b"a\n" * 500, "holds 1 samples"),
        ("many.txt", "\n".join(map(str, range(10_001))).encode(), "holds 10001 samples"),
        ("latin1.txt", b"caf\xe9\n" * 200, "utf-8"),
        ("empty.npy", b"", "cannot be read"),
        ("text.npy", b"a\nb\n", "cannot be read"),
        ("pickle.npy", np.array([{}, {}], dtype=object), "cannot be read"),
        ("flat.npy", np.zeros(8, np.float32), "two axes"),
        ("whole.npy", np.zeros((100, 8), np.int8), "float32 array"),
        ("few.npy", np.zeros((99, 8), np.float32), "holds 99 samples"),
        ("one.npy", np.zeros((1, 8), np.float32), "or 2 of ranges"),
        ("nan.npy", np.full((2, 8), np.nan, np.float32), "NaN"),
        ("turned.npy", RANGES[::-1], "first row"),
    ],
)
def test_a_file_that_will_not_do_is_named_with_its_fault(
    tmp_path: Path, name: str, content: bytes | np.ndarray | None, message: str
) -> None:
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        np.save(file, content, allow_pickle=True)
    with pytest.raises(ModelUnavailable, match=message) as fault:
        read_calibration(file)
    assert fault.value.message.startswith(f"calibration: {file}")


def test_the_texts_that_come_along_are_of_many_kinds() -> None:
    texts = read_calibration(None)
    assert len(texts) >= 300
    assert sum(len(str(text).split()) >= 60 for text in texts) >= 20
    assert sum(not str(text).isascii() for text in texts) >= 60
    assert max(len(str(text)) for text in texts) < 1000


def test_the_texts_that_come_along_have_not_changed() -> None:
    """Users keep int8 vectors: those made by other ranges cannot be compared with them.

    If they must change, say so in CHANGELOG.md as a breaking change.
    """
    content = (resources.files("appliance") / "data" / "calibration.txt").read_bytes()
    assert (
        hashlib.sha256(content).hexdigest()
        == "f8fc130dafacb4c2d5ea4df481283ab95143bb8a8e5fb916d801796377a6a031"
    )
