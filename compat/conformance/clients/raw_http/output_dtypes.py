# SPDX-License-Identifier: Apache-2.0
"""Vectors of small numbers, by ``output_dtype``: an extension that other servers have, too."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

from compat.conformance.checks import (
    STEP_TOLERANCE,
    Vectors,
    expect,
    expect_equal,
    expect_error,
    expect_steps,
    read_json,
)
from compat.conformance.registry import Cases, Group
from compat.conformance.samples import TEXTS, numbered
from compat.conformance.target import SMALL_NUMBERS, Target

cases = Cases("http", Group.EXTENSION)

SCALAR = ("int8", "uint8")
BINARY = ("binary", "ubinary")
BITS = 8
OFFSET = 128

NEAR_ZERO = 1e-3
"""Values closer to zero than this may change their sign by rounding."""


def _bits(vectors: Vectors, size: int, offset: int = 0) -> NDArray[np.bool_]:
    return np.unpackbits((vectors + offset).astype(np.uint8), axis=1, count=size).astype(bool)


def _expect_signs(bits: NDArray[np.bool_], vectors: Vectors, what: str) -> None:
    expect_equal(f"shape of {what}", bits.shape, vectors.shape)
    clear = np.abs(vectors) > NEAR_ZERO
    expect(bool(((vectors > 0) == bits)[clear].all()), f"{what} are not the signs of the values")


@cases
def output_dtype_int8_and_uint8(target: Target) -> None:
    """With output_dtype int8 or uint8 a value is a step of its dimension's range."""
    texts = numbered(50)
    unsigned = target.embed_small(texts, "uint8")
    vectors = target.embed(texts)
    expect_equal("shape", unsigned.shape, vectors.shape)
    order = vectors.argsort(axis=0)
    rises = np.diff(np.take_along_axis(unsigned, order, axis=0), axis=0)
    expect(bool(rises.min() >= -STEP_TOLERANCE), "a greater value has a smaller step")
    expect_steps(target.embed_small(texts, "int8") + OFFSET, unsigned, "int8 plus 128")


@cases
def output_dtype_binary_and_ubinary(target: Target) -> None:
    """With output_dtype binary or ubinary a vector has a bit for each value above zero."""
    vectors = target.embed(TEXTS)
    for name, offset in (("ubinary", 0), ("binary", OFFSET)):
        packed = target.embed_small(TEXTS, name)
        expect_equal("bytes of a vector", packed.shape[1], -(-target.size // BITS))
        _expect_signs(_bits(packed, target.size, offset), vectors, f"bits of {name}")


@cases
def output_dtype_with_dimensions(target: Target) -> None:
    """The numbers are made of the vector after its cut."""
    size = target.size // 2
    for name in SCALAR:
        expect_equal("values", target.embed_small(TEXTS, name, dimensions=size).shape[1], size)
    vectors = target.embed(TEXTS, dimensions=size)
    packed = target.embed_small(TEXTS, "ubinary", dimensions=size)
    expect_equal("bytes of a vector", packed.shape[1], -(-size // BITS))
    _expect_signs(_bits(packed, size), vectors, "bits")


@cases
def output_dtype_in_base64(target: Target) -> None:
    """In base64 they are the same numbers, a byte each."""
    for name in (*SCALAR, *BINARY):
        wanted = target.embed_small(TEXTS, name)
        body = {"input": TEXTS, "output_dtype": name, "encoding_format": "base64"}
        encoded = [item["embedding"] for item in read_json(target.extended(body))["data"]]
        expect(all(isinstance(text, str) for text in encoded), "a vector is not text")
        raw = [np.frombuffer(base64.b64decode(text), SMALL_NUMBERS[name]) for text in encoded]
        expect_equal("bytes of a vector", len(raw[0]), wanted.shape[1])
        if name in SCALAR:
            expect_steps(np.array(raw, np.float64), wanted, f"{name} in base64")
        else:
            offset = OFFSET if name == "binary" else 0
            size = BITS * wanted.shape[1]
            differ = _bits(np.array(raw, np.float64), size, offset) ^ _bits(wanted, size, offset)
            expect(differ.mean() < 0.02, f"{name} in base64 has other bits")  # rounding about zero


@cases
def output_dtype_of_one_text_and_of_many(target: Target) -> None:
    """A text has the same numbers whatever it is sent with, so that vectors can be kept."""
    together = target.embed_small([TEXTS[0], *numbered(20)], "int8")
    expect_steps(target.embed_small(TEXTS[0], "int8"), together[:1], "a text sent alone")


@cases
def output_dtype_unknown(target: Target) -> None:
    """Another output_dtype is a 400 that names the field."""
    target.embed_small(TEXTS[0], "int8")
    expect_error(
        target.post({"input": TEXTS[0], "output_dtype": "int5"}), 400, param="output_dtype"
    )
