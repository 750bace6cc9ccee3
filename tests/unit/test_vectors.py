# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from appliance.engine.types import FloatMatrix
from appliance.engine.vectors import finish_vectors

MATRICES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
    elements=st.floats(-100, 100, width=32),
)


def matrix(*rows: list[float]) -> FloatMatrix:
    return np.array(rows, dtype=np.float32)


def test_nothing_asked_for_gives_the_vectors_as_they_are() -> None:
    vectors = matrix([3, 4], [0, 2])
    assert finish_vectors(vectors, dimensions=None, normalize=False).tolist() == vectors.tolist()


def test_normalize_scales_each_vector_to_unit_length() -> None:
    finished = finish_vectors(matrix([3, 4], [0, 2]), dimensions=None, normalize=True)
    np.testing.assert_allclose(finished, [[0.6, 0.8], [0, 1]], rtol=1e-6)


def test_dimensions_keeps_the_leading_values() -> None:
    finished = finish_vectors(matrix([1, 2, 3]), dimensions=2, normalize=False)
    assert finished.tolist() == [[1, 2]]


def test_the_length_is_made_one_after_the_cut() -> None:
    finished = finish_vectors(matrix([3, 4, 12]), dimensions=2, normalize=True)
    np.testing.assert_allclose(finished, [[0.6, 0.8]], rtol=1e-6)


def test_all_dimensions_is_no_cut() -> None:
    finished = finish_vectors(matrix([1, 2]), dimensions=2, normalize=False)
    assert finished.tolist() == [[1, 2]]


def test_a_vector_of_zeros_stays_finite() -> None:
    finished = finish_vectors(matrix([0, 0]), dimensions=None, normalize=True)
    assert finished.tolist() == [[0, 0]]


def test_the_vectors_that_came_in_are_left_alone() -> None:
    vectors = matrix([3, 4])
    finish_vectors(vectors, dimensions=1, normalize=True)
    assert vectors.tolist() == [[3, 4]]


@pytest.mark.parametrize("normalize", [True, False])
@given(vectors=MATRICES, dimensions=st.none() | st.integers(1, 8))
def test_the_result_is_contiguous_float32_of_the_shape_asked_for(
    normalize: bool, vectors: FloatMatrix, dimensions: int | None
) -> None:
    finished = finish_vectors(vectors, dimensions=dimensions, normalize=normalize)
    assert finished.dtype == np.float32
    assert finished.flags.c_contiguous
    width = vectors.shape[1]
    assert finished.shape == (len(vectors), min(dimensions or width, width))
