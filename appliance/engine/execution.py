# SPDX-License-Identifier: Apache-2.0
"""One batch on one device, from its texts to its jobs' answers, whatever goes wrong on the way.

A batch that fails is split until the text that is at fault stands alone. One that does not fit in
memory is split likewise, and the batches after it are smaller for a while. Texts whose numbers
are not finite in half precision are computed once more in float32. Texts of which different things
are wanted run one after the other, in a pass for each.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.engine.backend import Backend, DeviceOutOfMemory
from appliance.engine.batcher import Piece
from appliance.engine.budget import BatchBudget
from appliance.engine.jobs import Batch, Job
from appliance.engine.types import FloatMatrix, Rows, SparseRow
from appliance.errors import InternalError

__all__ = ["Executor", "fail"]

logger = logging.getLogger(__name__)

Flags = npt.NDArray[np.bool_]


@dataclass(slots=True, eq=False)
class Executor:
    """A model on a device.

    Attributes:
        name: The model's name, for messages.
        backend: The model.
        budget: Tokens of a batch that fit.
        recomputed: Texts that were computed once more in float32.
        overflows: Batches that did not fit in memory.
    """

    name: str
    backend: Backend
    budget: BatchBudget
    recomputed: int = 0
    overflows: int = 0

    def launch(self, pieces: Sequence[Piece]) -> Callable[[], None] | None:
        """Begin to embed texts. Raises nothing.

        Returns:
            A function that waits for the vectors and hands them to their jobs, and raises nothing
            either; ``None`` if nobody waits for any of the texts.
        """
        kept = [piece for piece in pieces if not piece.job.cancelled and piece.job.error is None]
        if not kept:
            return None
        kept.sort(key=lambda piece: piece.length)
        started = time.perf_counter()
        for piece in kept:
            if piece.job.started is None:
                piece.job.started = started
        outputs = {piece.job.output for piece in kept}
        if len(outputs) == 1:
            return self._launch(kept)
        finishes = [
            self._launch([piece for piece in kept if piece.job.output == output])
            for output in sorted(outputs)
        ]

        def finish() -> None:
            for each in finishes:
                each()

        return finish

    def _launch(self, pieces: list[Piece]) -> Callable[[], None]:
        try:
            wait = self.backend.launch(_packed(pieces))
        except Exception as caught:
            error = caught  # the name after "as" ends with the clause
            return lambda: self._recover(pieces, error)

        def finish() -> None:
            try:
                rows = wait()
            except Exception as error:
                self._recover(pieces, error)
            else:
                self._deliver(pieces, rows)

        return finish

    def _recover(self, pieces: list[Piece], error: Exception) -> None:
        tokens = _tokens(pieces)
        if isinstance(error, DeviceOutOfMemory):
            self.overflows += 1
            self.budget.shrink(tokens)
            logger.warning(
                "%s: a batch of %d tokens does not fit in memory; the next have at most %d",
                self.name,
                tokens,
                self.budget.tokens,
            )
        if len(pieces) > 1:  # one bad text fails alone, and half a batch needs half the memory
            middle = len(pieces) // 2
            for half in (pieces[:middle], pieces[middle:]):
                self._launch(half)()
            return
        logger.error("a text of %d tokens failed in %s", tokens, self.name, exc_info=error)
        fail(pieces[0].job, InternalError(_told(error, tokens)))

    def _deliver(self, pieces: list[Piece], rows: Rows) -> None:
        self.budget.passed(_tokens(pieces))
        finite = _finite_rows(rows)
        if not finite.all() and self.backend.is_half_precision:
            rows, finite = self._recompute(pieces, rows, finite)
        for piece, row, is_finite in zip(pieces, rows, finite, strict=True):
            if is_finite:
                _answer(piece, row)
            else:
                logger.error(
                    "a text of %d tokens gave no finite vector in %s", piece.length, self.name
                )
                fail(piece.job, InternalError("the model gave a vector with NaN or infinity"))

    def _recompute(self, pieces: list[Piece], rows: Rows, finite: Flags) -> tuple[Rows, Flags]:
        again = np.flatnonzero(~finite)
        if not self.recomputed:
            logger.warning(
                "%s: numbers overflow in half precision; such texts are computed once more in"
                " float32, which is slow. The setting dtype has ways out.",
                self.name,
            )
        self.recomputed += len(again)
        try:
            exact = self.backend.forward_in_float32(_packed([pieces[row] for row in again]))
        except Exception:  # the texts fail for what they are; the rest of the batch is good
            logger.exception("%s cannot be run in float32", self.name)
            return rows, finite
        finite = finite.copy()
        finite[again] = _finite_rows(exact)
        mended: Any = rows.copy() if isinstance(rows, np.ndarray) else list(rows)
        for place, row in zip(again, exact, strict=True):
            mended[place] = row
        return mended, finite


def _finite_rows(rows: Rows) -> Flags:
    flags: Flags
    if isinstance(rows, np.ndarray):
        flags = np.logical_and.reduce(np.isfinite(rows), axis=1)
    else:
        values = (row.values if isinstance(row, SparseRow) else row for row in rows)
        flags = np.array([np.isfinite(each).all() for each in values], dtype=np.bool_)
    return flags


def _packed(pieces: Sequence[Piece]) -> Batch:
    output = pieces[0].job.output
    return Batch.pack(
        [piece.job.texts[piece.index] for piece in pieces],
        [piece.job.unpooled for piece in pieces],
        output,
        [piece.second_start for piece in pieces] if output == "scores" else (),
    )


def _tokens(pieces: Sequence[Piece]) -> int:
    return sum(piece.length for piece in pieces)


def _told(error: Exception, tokens: int) -> str:
    if isinstance(error, DeviceOutOfMemory):
        return f"a text of {tokens} tokens does not fit in the device's memory"
    return f"the model failed ({type(error).__name__})"


# Workers may finish parts of one job at the same time.
_delivery = threading.Lock()


def _answer(piece: Piece, row: FloatMatrix | SparseRow) -> None:
    job = piece.job
    with _delivery:
        if job.rows is None:
            job.rows = _room(job, row)
        job.rows[piece.index] = row
        job.remaining -= 1
        complete = job.remaining == 0 and job.error is None
    if complete:
        _finish(job)


def _room(job: Job, row: FloatMatrix | SparseRow) -> Any:
    """Place for a job's rows, of which this is one."""
    if isinstance(row, SparseRow) or row.ndim == 2:
        return [None] * len(job.texts)
    return np.empty((len(job.texts), len(row)), dtype=np.float32)


def fail(job: Job, error: BaseException) -> None:
    """Answer a job with an error, unless it has been answered."""
    with _delivery:
        first = job.error is None and job.remaining > 0
        if first:
            job.error = error
    if first:
        _finish(job)


def _finish(job: Job) -> None:
    job.finished = time.perf_counter()
    try:
        job.done(job)
    except Exception:  # whoever waits for this job; others wait for the rest of the batch
        logger.exception("an answer could not be handed over")
