# SPDX-License-Identifier: Apache-2.0
"""Texts that cases send."""

from __future__ import annotations

__all__ = ["QUESTION", "TEXTS", "TEXTS_AS_IDS", "UNKNOWN_MODEL", "numbered"]

UNKNOWN_MODEL = "no-such-model"

QUESTION = "What makes dough grow?"

TEXTS = [
    "The harbour lies quiet before the storm.",
    "Bread rises because yeast makes gas.",
    "Der Zug nach Köln fährt um acht Uhr.",
]

TEXTS_AS_IDS = [
    [791, 75742, 15812, 11594, 1603, 279, 13766, 13],
    [33, 888, 38268, 1606, 41580, 3727, 6962, 13],
    [22960, 77816, 14375, 65994, 2312, 282, 22243, 3423, 4543, 264, 14244, 39283, 13],
]
"""``TEXTS`` in the vocabulary ``cl100k_base``, written out so that no vocabulary is needed."""

_THINGS = ("a violin", "seven barrels", "the old map", "wet gloves", "a telescope", "fresh paint")
_PLACES = ("in the attic", "under a bridge", "beside the mill", "on platform nine", "at sea")


def numbered(count: int) -> list[str]:
    """Short texts, no two alike in meaning."""
    return [
        f"Item {number}: {_THINGS[number % len(_THINGS)]} {_PLACES[number % len(_PLACES)]}."
        for number in range(count)
    ]
