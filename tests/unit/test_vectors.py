# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from appliance.engine.types import FloatMatrix, OutputDtype
from appliance.engine.vectors import finish_vectors, ranges_of

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


def shrink(
    vectors: FloatMatrix, output_dtype: OutputDtype, ranges: FloatMatrix | None = None
) -> np.ndarray:
    return finish_vectors(
        vectors, dimensions=None, normalize=False, output_dtype=output_dtype, ranges=ranges
    )


def test_a_value_becomes_the_whole_steps_above_the_start_of_its_range() -> None:
    ranges = matrix([-1, 0], [1.55, 25.5])  # steps of 0.01 and 0.1
    vectors = matrix([-1, 0], [1.55, 25.5], [0.005, 0.199], [-0.004, 0.2])
    steps = [[0, 0], [255, 255], [100, 1], [99, 2]]
    shrunk = shrink(vectors, "uint8", ranges)
    assert shrunk.dtype == np.uint8
    assert shrunk.tolist() == steps
    signed = shrink(vectors, "int8", ranges)
    assert signed.dtype == np.int8
    assert signed.tolist() == [[step - 128 for step in row] for row in steps]


def test_a_value_outside_its_range_counts_as_its_end() -> None:
    ranges = matrix([0], [1])
    vectors = matrix([-0.001], [-1e30], [1.001], [1e30])
    assert shrink(vectors, "uint8", ranges).tolist() == [[0], [0], [255], [255]]
    assert shrink(vectors, "int8", ranges).tolist() == [[-128], [-128], [127], [127]]


def test_a_dimension_that_never_changes_is_finite_all_the_same() -> None:
    ranges = matrix([0.5, 0], [0.5, 1e-45])
    assert shrink(matrix([0.5, 0], [0.4, 1], [0.6, -1]), "uint8", ranges)[:, 0].tolist() == [0] * 3


def test_binary_has_a_bit_for_each_value_above_zero() -> None:
    vectors = matrix([1, -1, 0, 2, -0.5, -1, -1, 3], [-1] * 8, [1] * 8)
    bits = [0b10010001, 0, 255]
    packed = shrink(vectors, "ubinary")
    assert packed.dtype == np.uint8
    assert packed.ravel().tolist() == bits
    signed = shrink(vectors, "binary")
    assert signed.dtype == np.int8
    assert signed.ravel().tolist() == [byte - 128 for byte in bits]


def test_the_last_byte_is_filled_up_with_zeros() -> None:
    assert shrink(matrix([1] * 10), "ubinary").tolist() == [[0b11111111, 0b11000000]]
    assert shrink(matrix([-1] * 3), "binary").tolist() == [[-128]]


def test_ranges_are_of_the_vectors_as_they_are_after_cut_and_scaling() -> None:
    vectors = matrix([3, 4, 99], [-6, 8, -99])
    ranges = ranges_of(vectors, dimensions=2, normalize=True)
    np.testing.assert_allclose(ranges, [[-0.6, 0.8], [0.6, 0.8]], rtol=1e-6)
    assert ranges_of(vectors, dimensions=2, normalize=False).tolist() == [[-6, 4], [3, 8]]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("output_dtype", ["int8", "uint8", "binary", "ubinary"])
@given(vectors=MATRICES, dimensions=st.none() | st.integers(1, 8))
def test_the_number_format_is_made_of_the_vectors_after_cut_and_scaling(
    output_dtype: OutputDtype, normalize: bool, vectors: FloatMatrix, dimensions: int | None
) -> None:
    whole = finish_vectors(vectors, dimensions=dimensions, normalize=normalize)
    ranges = ranges_of(vectors, dimensions=dimensions, normalize=normalize)
    finished = finish_vectors(
        vectors,
        dimensions=dimensions,
        normalize=normalize,
        output_dtype=output_dtype,
        ranges=ranges,
    )
    assert finished.flags.c_contiguous
    np.testing.assert_array_equal(finished, shrink(whole, output_dtype, ranges))
    is_binary = output_dtype.endswith("binary")
    width = whole.shape[1]
    assert finished.shape == (len(vectors), -(-width // 8) if is_binary else width)
    assert finished.dtype == (np.uint8 if output_dtype.startswith("u") else np.int8)
