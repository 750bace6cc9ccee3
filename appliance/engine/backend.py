# SPDX-License-Identifier: Apache-2.0
"""What a loaded model is to the rest of the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from appliance.engine.jobs import Batch
from appliance.engine.types import (
    ModelCard,
    PairTokens,
    Rows,
    Token,
    TokenArray,
    TruncationDirection,
)

__all__ = [
    "Backend",
    "DeviceOutOfMemory",
    "Parking",
    "ParkingFailed",
    "Prepared",
    "Room",
    "TextTokenizer",
    "WeightsLost",
]


class DeviceOutOfMemory(Exception):
    """A batch, or a model's weights, need more of a device's memory than there is."""


class ParkingFailed(Exception):
    """Weights could not be put away, for want of room on the disk for example.

    They are where they were.
    """


class WeightsLost(Exception):
    """Weights that were put away cannot be had back as they were.

    The model can only be loaded anew, from its own files.
    """


@dataclass(frozen=True, slots=True)
class Parking:
    """Where weights are to go while their model is not in use.

    Attributes:
        tier: ``host``, page-locked RAM beside an accelerator, or ``disk``.
        folder: On disk, the folder for what cannot be read back from the model's own files.
        keep_bytes: Tensors of up to so many bytes stay on the device; 0: all go.
    """

    tier: Literal["host", "disk"]
    folder: Path | None = None
    keep_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """A device's memory, for weights.

    Attributes:
        capacity: Bytes that all models together may take.
        used: Bytes that they take now.
    """

    capacity: int
    used: int = 0


class TextTokenizer(Protocol):
    """Turns text into a model's own token ids. Safe to call from several threads."""

    def encode(self, texts: list[str]) -> list[TokenArray]:
        """Ids of each text in full, special tokens included."""

    def encode_starts(self, texts: list[str], enough: int) -> list[tuple[TokenArray, bool]]:
        """Ids of as much of each text as matters to whoever reads no more than ``enough`` tokens.

        Returns:
            For each text, its ids in full and ``True``; or the ids of a start of it, more than
            ``enough``, and ``False``: those before the special tokens at the end are the first of
            the whole text.
        """

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], limit: int, direction: TruncationDirection
    ) -> list[PairTokens]:
        """Ids of pairs of texts, each pair cut to ``limit`` tokens, special tokens included.

        The longer half of a pair that is too long is cut first.

        Args:
            pairs: The texts.
            limit: Most tokens of a pair.
            direction: The end of each half that goes.
        """

    def prompt_length(self, prompt: str) -> int:
        """Tokens that a prompt takes up at the start of a text, special tokens before it too."""

    def split(self, texts: list[str], *, add_special_tokens: bool = True) -> list[list[Token]]:
        """The tokens of each text, and where each lies in it."""

    def decode(
        self, ids: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        """The text that each list of ids stands for; ids that it does not know stand for none."""

    def cut(
        self, ids: TokenArray, limit: int, direction: TruncationDirection, keep_first: int = 0
    ) -> TokenArray:
        """The ids of the same text cut to ``limit`` tokens, special tokens kept.

        Args:
            ids: The whole text.
            limit: Most tokens to keep.
            direction: The end that goes.
            keep_first: Tokens at the start that stay, such as a prompt's.
        """


class Backend(Protocol):
    """One model, loaded.

    Batches run on a device's worker threads. Weights move on another, one move at a time and never
    while a batch is under way; whoever calls sees to that.
    """

    @property
    def tokenizer(self) -> TextTokenizer:
        """Its tokenizer."""

    @property
    def vocabulary_size(self) -> int:
        """Ids that it can read are below this."""

    @property
    def dimension(self) -> int:
        """Values of a vector."""

    @property
    def max_input_tokens(self) -> int:
        """Longest text that it reads."""

    @property
    def card(self) -> ModelCard:
        """What it is."""

    @property
    def device_name(self) -> str:
        """The device that it is on: ``cpu``, ``cuda:0``."""

    @property
    def revision(self) -> str | None:
        """The hub's commit that its files are of, if they came from there."""

    @property
    def prompts(self) -> Mapping[str, str]:
        """The prompts that its files name."""

    @property
    def default_prompt_name(self) -> str | None:
        """The prompt to use where nothing is said."""

    @property
    def pools_prompt(self) -> bool:
        """Whether the prompt's own tokens count in the vector."""

    def warm_up(self, batch_tokens: int) -> None:
        """Get ready for batches of a size and run the first one. Called once, before any other."""

    @property
    def is_half_precision(self) -> bool:
        """Whether its numbers may overflow where float32's would not."""

    @property
    def runs_alone(self) -> bool:
        """Whether it takes one batch at a time, whatever the device's number of workers."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes that its weights take of each device when they are there."""

    @property
    def scratch_bytes(self) -> int:
        """Bytes that a batch takes of its device beside the weights, as far as is known.

        0 where that is not counted.
        """

    @property
    def can_park(self) -> bool:
        """Whether its weights can be put away and had back. If not, it can only be loaded anew."""

    @property
    def parked_bytes(self) -> Mapping[str, int]:
        """Bytes that it takes of each :class:`Parking` tier for weights that were put away."""

    def kept(self, keep_bytes: int) -> Mapping[str, int]:
        """Bytes of each device that stay taken while the weights are put away.

        Args:
            keep_bytes: As in :class:`Parking`.
        """

    def park(self, parking: Parking) -> None:
        """Put the weights away and give their memory back. Never while a batch is under way.

        Raises:
            ParkingFailed: They are still where they were.
        """

    def restore(self) -> None:
        """Bring the weights back to their device.

        Raises:
            DeviceOutOfMemory: There is no room; they are still where they were put.
            WeightsLost: What was put away is gone, broken or not the same any more.
        """

    def close(self) -> None:
        """Give back all that it holds, wherever that is. It is of no use afterwards."""

    def launch(self, batch: Batch) -> Callable[[], Rows]:
        """Begin to make of a batch what it is to become.

        Returns:
            A function that waits for it, by the batch's ``output``:

            - ``dense``: float32, shape ``[texts, dimension]``, the chain's own output;
            - ``sparse``: a :class:`~appliance.engine.types.SparseRow` for each text;
            - ``tokens``: float32, shape ``[tokens, dimension]``, for each text;
            - ``scores``: float32, shape ``[texts, labels]``: logits.

        Raises:
            DeviceOutOfMemory: It needs more memory than there is.
        """

    def forward_in_float32(self, batch: Batch) -> Rows:
        """The same once more, with room for larger numbers.

        Raises:
            DeviceOutOfMemory: It needs more memory than there is.
        """


class Prepared(Protocol):
    """A model that was found and measured, and is not loaded yet."""

    @property
    def devices(self) -> Sequence[str]:
        """The device that each copy computes on, or the first of several."""

    @property
    def sizes(self) -> Sequence[Mapping[str, int]]:
        """Bytes that the weights of each copy will take of each device, as far as is known."""

    def load(self, number: int) -> Backend:
        """Load one copy.

        Raises:
            ModelUnavailable: With the reason, in words for the operator.
            DeviceOutOfMemory: There is no room for it on its device.
        """
