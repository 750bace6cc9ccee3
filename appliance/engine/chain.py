# SPDX-License-Identifier: Apache-2.0
"""The chain of modules that a model's own files name.

``modules.json`` lists classes, each with a folder of its own. Both spellings of a class are read,
the old (``sentence_transformers.models.Pooling``) and the new
(``sentence_transformers.sentence_transformer.modules.pooling.Pooling``).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from appliance.engine.modules import (
    TEXTS,
    TOKENS,
    ClassifierSpec,
    HeadSpec,
    SpladeSpec,
    read_head,
    read_json,
    read_pooling,
    read_splade,
)
from appliance.errors import ModelUnavailable

__all__ = ["ChainSpec", "read_chain"]

LIBRARY = "sentence_transformers."
INPUTS = ("Transformer", "MLMTransformer", "StaticEmbedding")
POOLINGS = ("Pooling", "SpladePooling")
HEADS = ("Dense", "LayerNorm", "Normalize", "Dropout")


@dataclass(frozen=True, slots=True)
class ChainSpec:
    """The modules from token ids to a vector.

    Attributes:
        transformer: Folder of the transformer's config, weights and tokenizer.
        pooling: Modes whose results are laid side by side, or SPLADE, or a classifier's head;
            ``None`` if none is named.
        is_static: Whether a table of token vectors stands in the transformer's place.
        token_heads: What is done to token vectors before the pooling, in order.
        heads: What is done to pooled vectors, in order.
        pools_prompt: Whether the prompt's own tokens count in the vector.
    """

    transformer: Path
    pooling: tuple[str, ...] | SpladeSpec | ClassifierSpec | None = None
    is_static: bool = False
    token_heads: tuple[HeadSpec, ...] = ()
    heads: tuple[HeadSpec, ...] = ()
    pools_prompt: bool = True


class ModuleEntry(msgspec.Struct):
    """One entry of ``modules.json``."""

    type: str
    path: str = ""

    @property
    def kind(self) -> str:
        """The class's own name."""
        return self.type.rpartition(".")[2]


def read_chain(folder: Path) -> ChainSpec:
    """Read ``modules.json`` and the config of each module.

    Returns:
        The chain; of a folder without that file, as sentence-transformers has it, the mean over a
        plain transformer. A transformer with no pooling named whose ``config.json`` says that it is
        a ``ForSequenceClassification`` model has its own head behind it.

    Raises:
        ModelUnavailable: A file is broken or asks for something that is not supported.
    """
    if not (folder / "modules.json").is_file():
        return ChainSpec(folder, ClassifierSpec() if _classifies(folder) else ("mean",))
    entries = read_json(folder / "modules.json", list[ModuleEntry])
    _check_kinds(entries)
    transformer = folder / entries[0].path
    is_static = entries[0].kind == "StaticEmbedding"
    places = [place for place, entry in enumerate(entries) if entry.kind in POOLINGS]
    if len(places) + is_static > 1:  # the table takes the mean itself
        raise ModelUnavailable("modules.json has more than one pooling")
    if is_static:
        heads = _read_heads(folder, entries[1:], TEXTS)
        return ChainSpec(transformer, ("mean",), is_static=True, heads=heads)
    if not places:
        if len(entries) == 1 and _classifies(transformer):
            return ChainSpec(transformer, ClassifierSpec())
        return ChainSpec(transformer, token_heads=_read_heads(folder, entries[1:], TOKENS))
    (place,) = places
    token_heads = _read_heads(folder, entries[1:place], TOKENS)
    heads = _read_heads(folder, entries[place + 1 :], TEXTS)
    pooling_folder = folder / entries[place].path
    if entries[place].kind == "SpladePooling":
        if token_heads:
            raise ModelUnavailable(
                "modules.json has a module before SpladePooling, which takes logits as they are"
            )
        return ChainSpec(transformer, read_splade(pooling_folder), heads=heads)
    modes, pools_prompt = read_pooling(pooling_folder)
    return ChainSpec(
        transformer, modes, token_heads=token_heads, heads=heads, pools_prompt=pools_prompt
    )


class Architectures(msgspec.Struct):
    """What a transformer's ``config.json`` says of its class."""

    architectures: list[str] | None = None


def _classifies(transformer: Path) -> bool:
    with suppress(ModelUnavailable):  # a broken file is told of where all of it is read
        named = read_json(transformer / "config.json", Architectures).architectures or []
        return any(name.endswith("ForSequenceClassification") for name in named)
    return False


def _check_kinds(entries: list[ModuleEntry]) -> None:
    known = (*INPUTS, *POOLINGS, *HEADS)
    for place, entry in enumerate(entries):
        if not entry.type.startswith(LIBRARY) or entry.kind not in known:
            raise ModelUnavailable(
                f"modules.json asks for a module {entry.type!r}; known are sentence-transformers'"
                f" own {', '.join(known[:-1])} and {known[-1]}"
            )
        if (entry.kind in INPUTS) != (place == 0):
            raise ModelUnavailable(
                f"modules.json has {entry.kind} at place {place}; one of {', '.join(INPUTS)} has"
                " to stand at place 0, and nowhere else"
            )
    if not entries:
        raise ModelUnavailable("modules.json is empty")


def _read_heads(folder: Path, entries: Iterable[ModuleEntry], feature: str) -> tuple[HeadSpec, ...]:
    return tuple(
        read_head(entry.kind, folder / entry.path, feature)
        for entry in entries
        if entry.kind != "Dropout"  # does nothing outside of training
    )
