# SPDX-License-Identifier: Apache-2.0
"""Models whose weights lie in different ways, and a device that there is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import BertConfig

from appliance.engine.backend import Parking
from appliance.engine.blocks import Link
from appliance.engine.model import TorchBackend
from appliance.engine.parking import Weights
from tests.parity.families import FAMILIES, SIZES, WORDPIECE, Family
from tests.parity.reference import REAL, load, warmed
from tests.parity.tiny import build, build_classifier, build_splade, build_static

Build = Callable[..., Path]
MIB = 2**20


def disk(folder: Path) -> Parking:
    return Parking("disk", folder)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def dense(taken: int) -> list[torch.nn.Module]:
    return [Dense(taken, 48), LayerNorm(48), Dense(48, 16, use_residual=True), Normalize()]


WIDE_SIZES = {**SIZES, "hidden_size": 128, "intermediate_size": 256}
WIDE = Family(lambda words, _: BertConfig(vocab_size=words, **WIDE_SIZES), WORDPIECE)
"""As wide as layers in four bits have to be."""
TOKENS = [Dense(32, 24, module_input_name="token_embeddings")]


class Kinds:
    """The kinds of models whose weights lie in different ways."""

    def __init__(self, built: Build, tmp_path: Path) -> None:
        self._built = built
        self._folder = tmp_path / "kind"
        self._folder.mkdir()

    def load(self, kind: str) -> TorchBackend:
        backend: TorchBackend = getattr(self, kind.replace("-", "_"))()
        return backend

    def real(self) -> TorchBackend:
        return warmed(REAL)

    def real_bfloat16(self) -> TorchBackend:
        return warmed(REAL, "bfloat16")

    def int8(self) -> TorchBackend:
        return warmed(build(self._folder, WIDE), "bfloat16", quantization="int8")

    def nf4(self) -> TorchBackend:
        return warmed(build(self._folder, WIDE), "bfloat16", quantization="nf4")

    def fp4_float32(self) -> TorchBackend:
        return warmed(build(self._folder, WIDE), quantization="fp4")

    def padded(self) -> TorchBackend:
        return warmed(self._built("deberta-v2"))

    def shared_layers(self) -> TorchBackend:
        return warmed(self._built("albert"))

    def renamed(self) -> TorchBackend:
        return warmed(self._built("modernbert"))

    def decoder(self) -> TorchBackend:
        return warmed(self._built("qwen3"))

    def plain_layers(self) -> TorchBackend:
        backend = load(self._built("qwen3"))
        with torch.inference_mode():
            backend.transformer.prove(256, prepacked=False)
        return backend

    def heads(self) -> TorchBackend:
        return warmed(self._built("bert", *dense(24), before=TOKENS))

    def heads_behind_bfloat16(self) -> TorchBackend:
        return warmed(self._built("bert", *dense(32)), "bfloat16")

    def splade(self) -> TorchBackend:
        return warmed(build_splade(self._folder, FAMILIES["bert"], SpladePooling("max")))

    def classifier(self) -> TorchBackend:
        return warmed(build_classifier(self._folder, FAMILIES["bert"]))

    def classifier_bfloat16(self) -> TorchBackend:
        return warmed(build_classifier(self._folder, FAMILIES["deberta-v2"]), "bfloat16")

    def static(self) -> TorchBackend:
        return warmed(build_static(self._folder, Normalize()))

    def static_bfloat16(self) -> TorchBackend:
        return warmed(build_static(self._folder, Normalize()), "bfloat16")

    def pickled(self) -> TorchBackend:
        folder = shutil.copytree(self._built("bert"), self._folder, dirs_exist_ok=True)
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        return warmed(folder, pickle_weights=True)


KINDS = [name.replace("_", "-") for name in vars(Kinds) if not name.startswith("_")][1:]
IN_OWN_FILES = {"real", "static", "padded", "renamed", "decoder", "plain-layers"}
"""Whose files hold all that is in memory, or all but a hundredth."""
WRITTEN_WHOLE = {"static-bfloat16", "pickled"}


class Pretended(Link):
    """A device of its own memory that is the host in truth."""

    def __init__(self, *, locks: bool = True) -> None:
        self.locked_blocks: list[int] = []
        self.queued: list[str] = []
        self.given_back = 0
        self.is_full = False
        self._locks = locks

    def is_apart(self, device: torch.device) -> bool:
        return True

    def lock(self, block: torch.Tensor, device: torch.device) -> bool:
        if self._locks:
            self.locked_blocks.append(block.data_ptr())
        return self._locks

    def unlock(self, block: torch.Tensor) -> None:
        self.locked_blocks.remove(block.data_ptr())

    @contextmanager
    def queue(self, device: torch.device) -> Iterator[None]:
        if self.is_full:
            raise torch.OutOfMemoryError("no room for the block")
        self.queued.append(str(device))
        yield

    def give_back(self) -> None:
        self.given_back += 1


def pretend(backend: TorchBackend, link: Link) -> Weights:
    """Have a loaded model's weights on a pretended device."""
    roots = (backend.transformer.module, backend._chain)
    backend._weights = Weights(roots, backend._folders, link)
    return backend._weights
