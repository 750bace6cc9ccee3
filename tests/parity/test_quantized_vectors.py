# SPDX-License-Identifier: Apache-2.0
"""Small number formats are those of sentence-transformers, value for value."""

from __future__ import annotations

import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings

from appliance.engine.types import FloatMatrix, OutputDtype
from appliance.engine.vectors import finish_vectors, ranges_of

DIMENSION = 52  # not a multiple of eight
FLAT = 5
"""A dimension that never changes in the calibration."""


def vectors(count: int, seed: int) -> FloatMatrix:
    generator = np.random.default_rng(seed)
    scales = generator.uniform(0.1, 10, DIMENSION)
    return (generator.normal(0.3, 1, (count, DIMENSION)) * scales).astype(np.float32)


CALIBRATION = vectors(200, seed=1)
CALIBRATION[:, FLAT] = 0.25
ASKED = np.concatenate((CALIBRATION[:50], vectors(500, seed=2)))  # at the ends, inside and outside


@pytest.mark.parametrize("output_dtype", ["int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("dimensions", [None, 1, 8, 13, 48])
@pytest.mark.parametrize("normalize", [True, False])
def test_values_are_those_of_quantize_embeddings(
    output_dtype: OutputDtype, dimensions: int | None, normalize: bool
) -> None:
    whole = finish_vectors(ASKED, dimensions=dimensions, normalize=normalize)
    ranges = ranges_of(CALIBRATION, dimensions=dimensions, normalize=normalize)
    expected = quantize_embeddings(whole, precision=output_dtype, ranges=ranges)
    finished = finish_vectors(
        ASKED,
        dimensions=dimensions,
        normalize=normalize,
        output_dtype=output_dtype,
        ranges=ranges,
    )
    assert finished.dtype == np.asarray(expected).dtype
    np.testing.assert_array_equal(finished, expected)


def test_ranges_are_those_that_it_finds_itself() -> None:
    expected = quantize_embeddings(ASKED, precision="int8", calibration_embeddings=CALIBRATION)
    finished = finish_vectors(
        ASKED,
        dimensions=None,
        normalize=False,
        output_dtype="int8",
        ranges=ranges_of(CALIBRATION, dimensions=None, normalize=False),
    )
    np.testing.assert_array_equal(finished, expected)
