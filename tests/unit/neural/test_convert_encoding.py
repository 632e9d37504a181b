"""Counts and floats: every stored value decodes to exactly the measured one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvkit.errors import DataError
from mvkit.neural.convert import CountEncoder, FloatEncoder, NotCountsError
from mvkit.neural.neural_file import decode


def test_every_count_and_nothing_else_is_stored() -> None:
    counts = np.arange(255)
    stored = np.zeros(256, dtype=np.uint8)
    encoder = CountEncoder()
    encoder.encode(np.append(counts / 0.01, np.nan), stored)
    np.testing.assert_array_equal(stored, np.arange(256))
    assert encoder.n_missing == 1
    np.testing.assert_array_equal(decode(stored), np.append(counts / 0.01, np.nan))


@given(st.floats(allow_nan=False) | st.integers(-300, 300).map(lambda count: count / 0.01))
def test_a_rate_is_stored_only_if_it_decodes_to_itself(rate: float) -> None:
    stored = np.zeros(1, dtype=np.uint8)
    try:
        CountEncoder().encode(np.array([rate]), stored)
    except NotCountsError:
        assert rate not in {count / 0.01 for count in range(255)}
    else:
        assert decode(stored)[0] == rate


@pytest.mark.parametrize("position", [0, 40_000, 99_999])
def test_one_odd_rate_among_many_is_found(position: int) -> None:
    rates = np.full(100_000, 200.0)
    rates[::7] = np.nan
    rates[position] = 200.5
    with pytest.raises(NotCountsError, match=r"200\.5"):
        CountEncoder().encode(rates, np.zeros(100_000, dtype=np.uint8))


def test_missing_are_counted_across_blocks() -> None:
    rates = np.full(100_000, 200.0)
    rates[5::1000] = np.nan
    encoder = CountEncoder()
    stored = np.zeros(100_000, dtype=np.uint8)
    encoder.encode(rates, stored)
    assert encoder.n_missing == 100
    assert set(stored.tolist()) == {2, 255}


@pytest.mark.parametrize(
    ("source", "kept"), [("f2", "f4"), ("f4", "f4"), (">f8", "f8"), ("i8", "f8"), ("u1", "f8")]
)
def test_floats_keep_what_the_source_has(source: str, kept: str) -> None:
    values = np.array([0, 1, 3, 100], dtype=source)
    encoder = FloatEncoder(values.dtype)
    stored = np.zeros(4, dtype=encoder.dtype)
    encoder.encode(values, stored)
    assert stored.dtype == np.dtype(kept)
    np.testing.assert_array_equal(stored, values)


def test_integers_beyond_float64_are_refused() -> None:
    values = np.array([2**53 + 1], dtype=np.int64)
    with pytest.raises(DataError, match="too large"):
        FloatEncoder(values.dtype).encode(values, np.zeros(1))
