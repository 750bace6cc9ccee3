# SPDX-License-Identifier: Apache-2.0
"""How large a batch may be."""

from __future__ import annotations

__all__ = ["BatchBudget"]


class BatchBudget:
    """Tokens of a batch that fit in a device's memory, as far as is known.

    Halved when a batch did not fit, and doubled again after a number of good batches that were
    large enough to tell. That number doubles with each failure, so that a size that never fits is
    tried ever more rarely.

    Args:
        most: Tokens that it never exceeds.
    """

    FIRST_PATIENCE = 16
    MOST_PATIENCE = 1024

    def __init__(self, most: int) -> None:
        self.tokens = most
        self._most = most
        self._good = 0
        self._patience = self.FIRST_PATIENCE

    def shrink(self, tokens: int) -> None:
        """A batch of so many tokens did not fit."""
        self.tokens = max(1, min(self.tokens, tokens) // 2)
        self._good = 0
        self._patience = min(2 * self._patience, self.MOST_PATIENCE)

    def passed(self, tokens: int) -> None:
        """A batch of so many tokens did fit."""
        if self.tokens == self._most or 2 * tokens < self.tokens:
            return
        self._good += 1
        if self._good >= self._patience:
            self.tokens = min(2 * self.tokens, self._most)
            self._good = 0
