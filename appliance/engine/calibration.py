# SPDX-License-Identifier: Apache-2.0
"""Ranges of a model's values, by which ``int8`` and ``uint8`` vectors are made.

They come from texts that are not the request's own: vectors of two requests can be compared only
if both were made by the same ranges.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import cast

import numpy as np

from appliance.engine.types import FloatMatrix
from appliance.engine.vectors import ranges_of
from appliance.errors import InvalidRequest, ModelUnavailable

__all__ = ["Calibration", "CalibrationSource", "read_calibration"]

logger = logging.getLogger(__name__)

LEAST_SAMPLES = 100
"""Of fewer the ranges are so narrow that many values lie outside; sentence-transformers warns
below the same number."""

MOST_SAMPLES = 10_000
"""More hardly widen the ranges, and are kept in memory."""

RUN = 64
"""Texts that are embedded as one job, so that other requests find room in the queue."""

KEPT_RANGES = 64
"""Pairs of ``dimensions`` and ``normalize`` whose ranges are remembered."""

RANGES_ROWS = 2

CalibrationSource = Sequence[str] | FloatMatrix
"""Texts; or float32, shape ``[samples, dimension]``: embeddings as the model's chain gives them;
or float32, shape ``[2, dimension]``: least and greatest values of whole vectors."""


class Calibration:
    """The ranges of one model. Belongs to the event loop.

    Args:
        name: The model's name, for messages.
        source: What :func:`read_calibration` read.
        dimension: Values of the model's vectors.
        normalized: Whether ranges from a file are of vectors of unit length.
        embed: Gives the chain's own output for texts: float32, shape ``[texts, dimension]``.

    Raises:
        ModelUnavailable: The source is of another model.
    """

    def __init__(
        self,
        name: str,
        source: CalibrationSource,
        *,
        dimension: int,
        normalized: bool,
        embed: Callable[[Sequence[str]], Awaitable[FloatMatrix]],
    ) -> None:
        matrix = source if isinstance(source, np.ndarray) else None
        if matrix is not None and matrix.shape[1] != dimension:
            raise ModelUnavailable(
                f"calibration: the file's rows have {matrix.shape[1]} values, but the model's"
                f" vectors have {dimension}"
            )
        self._name = name
        self._dimension = dimension
        self._normalized = normalized
        self._embed = embed
        self._texts = () if matrix is not None else cast("Sequence[str]", source)
        self._fixed = matrix if matrix is not None and len(matrix) == RANGES_ROWS else None
        self._given = matrix if self._fixed is None else None
        self._task: asyncio.Task[FloatMatrix] | None = None
        self._found: dict[tuple[int, bool], FloatMatrix] = {}

    def check(self, dimensions: int | None, normalize: bool) -> None:
        """Refuse what cannot be had of ranges from a file, which say nothing of other vectors.

        Raises:
            InvalidRequest: Naming the field.
        """
        if self._fixed is None:
            return
        cut = dimensions is not None and dimensions < self._dimension
        if normalize is self._normalized and not (cut and normalize):
            return
        raise InvalidRequest(
            f"int8 and uint8 of '{self._name}' are made by ranges of whole vectors"
            f" {'of unit length' if self._normalized else 'as the model gives them'}, which hold"
            " for no other; the server's setting 'calibration' can name texts or embeddings"
            " instead.",
            param="dimensions" if normalize is self._normalized else "normalize",
        )

    async def ranges(self, dimensions: int | None, normalize: bool) -> FloatMatrix:
        """Ranges of vectors as a request wants them. The first call embeds the texts.

        Args:
            dimensions: Leading values that are kept.
            normalize: Whether they are scaled to unit length after that.

        Returns:
            float32, shape ``[2, dimensions]``: least and greatest values.

        Raises:
            ApplianceError: The texts could not be embedded; the next call tries again.
        """
        if self._fixed is not None:
            return self._fixed[:, :dimensions]
        key = (min(dimensions or self._dimension, self._dimension), normalize)
        if key not in self._found:
            embeddings = await self._embeddings()
            found = await asyncio.to_thread(
                ranges_of, embeddings, dimensions=key[0], normalize=normalize
            )
            if len(self._found) >= KEPT_RANGES:
                self._found.pop(next(iter(self._found)))
            self._found[key] = found
        return self._found[key]

    def stop(self) -> None:
        """Give up whatever is under way."""
        if self._task is not None:
            self._task.cancel()

    async def _embeddings(self) -> FloatMatrix:
        if self._given is not None:
            return self._given
        if self._task is None:
            self._task = asyncio.create_task(self._embed_texts())
            self._task.add_done_callback(self._forget_failure)
        # A client that leaves does not take it away from the others.
        embeddings = await asyncio.shield(self._task)
        if len(embeddings) < LEAST_SAMPLES:
            raise ModelUnavailable(
                f"int8 and uint8 of '{self._name}' cannot be had: of its calibration texts the"
                f" model reads {len(embeddings)}, and {LEAST_SAMPLES} are needed."
            )
        return embeddings

    def _forget_failure(self, task: asyncio.Task[FloatMatrix]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("model %s: calibration: %s", self._name, error)
            self._task = None

    async def _embed_texts(self) -> FloatMatrix:
        started = time.perf_counter()
        runs = [
            await self._embed_run(self._texts[start : start + RUN])
            for start in range(0, len(self._texts), RUN)
        ]
        embeddings = np.concatenate(runs)
        logger.info(
            "model %s: ranges for int8 from %d of %d texts after %.1f s",
            self._name,
            len(embeddings),
            len(self._texts),
            time.perf_counter() - started,
        )
        return embeddings

    async def _embed_run(self, texts: Sequence[str]) -> FloatMatrix:
        """Embed texts, without those that leave the model no token."""
        try:
            return await self._embed(texts)
        except InvalidRequest:
            if len(texts) == 1:
                return np.empty((0, self._dimension), dtype=np.float32)
            middle = len(texts) // 2
            halves = (await self._embed_run(texts[:middle]), await self._embed_run(texts[middle:]))
            return np.concatenate(halves)


def read_calibration(path: Path | None) -> CalibrationSource:
    """Read what a model is calibrated with. Blocks.

    Args:
        path: A text file or an ``.npy`` file. Unset: the texts that come with this package.

    Raises:
        ModelUnavailable: It cannot be read or does not hold what it should.
    """
    if path is None:
        packaged = resources.files("appliance") / "data" / "calibration.txt"
        return _texts_of(packaged.read_text(encoding="utf-8"))
    path = path.expanduser()
    try:
        if path.suffix.lower() == ".npy":
            return _read_array(path)
        texts = _texts_of(path.read_text(encoding="utf-8-sig"))
    except (OSError, EOFError, ValueError) as error:  # the last for what is not UTF-8, too
        raise ModelUnavailable(f"calibration: {path} cannot be read: {error}") from error
    _check_count(path, len(texts), "different texts, one a line")
    return texts


def _texts_of(content: str) -> Sequence[str]:
    """Lines that say something, each once."""
    return list(dict.fromkeys(line.strip() for line in content.split("\n") if line.strip()))


def _read_array(path: Path) -> FloatMatrix:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        raise ModelUnavailable(
            f"calibration: {path} must hold a float32 array of two axes: [2, dimension] of ranges"
            " or [samples, dimension] of embeddings"
        )
    if len(array) != RANGES_ROWS:
        _check_count(path, len(array), "rows of embeddings, or 2 of ranges")
    matrix = np.array(array, dtype=np.float32)
    if not np.isfinite(matrix).all():
        raise ModelUnavailable(f"calibration: {path} holds NaN or infinity")
    if len(matrix) == RANGES_ROWS and (matrix[0] > matrix[1]).any():
        raise ModelUnavailable(
            f"calibration: {path} holds ranges whose first row, the least values, is not below"
            " the second, the greatest"
        )
    return matrix


def _check_count(path: Path, count: int, what: str) -> None:
    if not LEAST_SAMPLES <= count <= MOST_SAMPLES:
        raise ModelUnavailable(
            f"calibration: {path} holds {count} samples, but must hold {LEAST_SAMPLES} to"
            f" {MOST_SAMPLES} {what}"
        )
