# SPDX-License-Identifier: Apache-2.0
"""What is simulated: machines, models and requests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["SIZES", "Machine", "Model", "Requests", "make_models", "make_requests", "popularity"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

GIB = 2**30
BYTES_PER_PARAMETER = 2  # bfloat16


@dataclass(frozen=True, slots=True)
class Machine:
    """One GPU and its share of a host. What each figure rests on is told in ops/capacity.md.

    Attributes:
        weights_gib: Device memory for weights.
        host_gib: Page-locked RAM for weights that are parked.
        copy_gib_s: From that RAM to the device.
        disk_gib_s: From disk to the device.
        flops: That the forward pass gets done in a second, attention and all else included.
        batch_seconds: Of a batch, whatever its size.
        front_seconds: Of a request outside of queue and device.
        batch_tokens: Most tokens of a batch.
        turn_seconds: That a model with work keeps its place while others wait.
        price: Dollars an hour.
    """

    weights_gib: float = 64.0
    host_gib: float = 192.0
    copy_gib_s: float = 40.0
    disk_gib_s: float = 4.0
    flops: float = 300e12
    batch_seconds: float = 0.003
    front_seconds: float = 0.002
    batch_tokens: int = 16384
    turn_seconds: float = 0.5
    price: float = 2.5


@dataclass(frozen=True, slots=True)
class Model:
    """One model.

    Attributes:
        parameters: In millions.
    """

    parameters: int

    @property
    def gib(self) -> float:
        """Of its weights."""
        return self.parameters * 1e6 * BYTES_PER_PARAMETER / GIB

    def seconds(self, tokens: float, machine: Machine) -> float:
        """Time of the device for so many tokens, two operations a parameter and token."""
        return tokens * 2 * self.parameters * 1e6 / machine.flops


SIZES = {33: 0.25, 110: 0.30, 335: 0.25, 600: 0.10, 1500: 0.06, 7000: 0.04}
"""Millions of parameters, and the share of models that have them: MiniLM and small BGE, base,
large, Qwen3-0.6B, Qwen2-1.5B, and the 7B decoders."""


@dataclass(frozen=True, slots=True)
class Requests:
    """What comes, in order of time.

    Attributes:
        times: Seconds.
        models: Index of the model of each.
        tokens: Of each.
    """

    times: Floats
    models: Ints
    tokens: Ints


def make_models(count: int, seed: int = 0) -> list[Model]:
    """Models of all sizes, the sizes without regard to how popular each is."""
    generator = np.random.default_rng(seed)
    chosen = generator.choice(list(SIZES), count, p=list(SIZES.values()))
    return [Model(int(parameters)) for parameters in chosen]


def popularity(count: int, exponent: float) -> Floats:
    """Share of the requests of each model by Zipf's law, the most popular first."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    shares: Floats = weights / weights.sum()
    return shares


def make_requests(
    shares: Floats, rate: float, seconds: float, mean_tokens: float, seed: int = 0
) -> Requests:
    """Requests that come at random, of lengths that differ as widely as people's do.

    Args:
        shares: Of each model.
        rate: Requests a second.
        seconds: For so long.
        mean_tokens: Of a request, whose logarithm is normal.
        seed: Of the random numbers.
    """
    generator = np.random.default_rng(seed)
    number = int(generator.poisson(rate * seconds))
    times = np.sort(generator.uniform(0, seconds, number))
    sigma = 1.2
    tokens = generator.lognormal(np.log(mean_tokens) - sigma**2 / 2, sigma, number)
    models = generator.choice(len(shares), number, p=shares)
    return Requests(times, models, np.maximum(tokens, 3).astype(np.int64))
