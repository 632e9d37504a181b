"""Random numbers that belong to samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from mvkit import rng as draws

#: Chance of a false alarm of each statistical test; seeds are fixed, so tests do not flicker.
RARE = 1e-6
MANY = np.arange(1 << 16, dtype=np.int64)


def uniform_in(counts: np.ndarray) -> bool:
    """Tell whether counts of equally likely cells are as even as chance makes them."""
    expected = counts.sum() / counts.size
    statistic = float(((counts - expected) ** 2).sum() / expected)
    low, high = stats.chi2.ppf((RARE, 1 - RARE), counts.size - 1)
    return bool(low < statistic < high)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 + 5])
def test_uniforms_fill_the_unit_interval_evenly(seed: int) -> None:
    drawn = draws.uniforms(seed, MANY)
    assert drawn.dtype == np.float64
    assert drawn.min() >= 0 and drawn.max() < 1
    np.testing.assert_array_equal(drawn * 2**24, np.floor(drawn * 2**24))
    assert uniform_in(np.bincount((drawn * 256).astype(int), minlength=256))


def test_an_uneven_source_would_be_noticed() -> None:
    drawn = draws.uniforms(0, MANY) ** 1.05
    assert not uniform_in(np.bincount((drawn * 256).astype(int), minlength=256))


@pytest.mark.parametrize("keys", ["next_index", "next_epoch", "next_view", "next_seed", "other_purpose"])
def test_neighbouring_keys_are_independent(keys: str) -> None:
    first = draws.uniforms(5, draws.CROP, 3, MANY, 0)
    second = {
        "next_index": lambda: draws.uniforms(5, draws.CROP, 3, MANY + 1, 0),
        "next_epoch": lambda: draws.uniforms(5, draws.CROP, 4, MANY, 0),
        "next_view": lambda: draws.uniforms(5, draws.CROP, 3, MANY, 1),
        "next_seed": lambda: draws.uniforms(6, draws.CROP, 3, MANY, 0),
        "other_purpose": lambda: draws.uniforms(5, draws.STEP, 3, MANY, 0),
    }[keys]()
    cells = (first * 16).astype(int) * 16 + (second * 16).astype(int)
    assert uniform_in(np.bincount(cells, minlength=256))


@pytest.mark.parametrize("bit", [0, 1, 7, 16, 31, 32, 40, 62])
def test_every_bit_of_a_key_changes_half_of_the_bits_drawn(bit: int) -> None:
    keys = MANY[:8192] * 7919
    changed = draws.hashed(1, keys) ^ draws.hashed(1, keys ^ (1 << bit))
    shares = [(changed >> position & 1).mean() for position in range(32)]
    # standard errors of a fair coin
    np.testing.assert_allclose(shares, 0.5, atol=5.5 * 0.5 / np.sqrt(keys.size))


def test_the_order_of_keys_matters() -> None:
    assert draws.hashed(1, 2, 3) != draws.hashed(1, 3, 2)
    assert draws.hashed(1, 2) != draws.hashed(2, 1)
    assert draws.hashed(1) != draws.hashed(1, 0) != draws.hashed(1, 0, 0)


def test_ints_numpy_and_torch_draw_the_same_bits() -> None:
    keys = np.array([0, 1, 5, 2**31, 2**32 + 1, 2**62 + 12345], np.int64)
    for seed in (0, 17, 2**40 + 3):
        array = draws.hashed(seed, 9, keys)
        assert array.dtype == np.int64
        tensor = draws.hashed(seed, 9, torch.from_numpy(keys))
        assert tensor.dtype == torch.int64
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert [draws.hashed(seed, 9, int(key)) for key in keys] == array.tolist()
        uniforms = draws.uniforms(seed, 9, torch.from_numpy(keys))
        np.testing.assert_array_equal(uniforms.double().numpy(), draws.uniforms(seed, 9, keys))


def test_keys_broadcast() -> None:
    grid = draws.hashed(4, np.arange(3)[:, None], np.arange(5)[None, :])
    assert [[draws.hashed(4, row, column) for column in range(5)] for row in range(3)] == grid.tolist()


def test_compiled_draws_are_the_same_bits() -> None:
    keys = np.random.default_rng(1).integers(0, 2**62, 200).tolist()
    for seed in (0, 3, 2**33, 2**63, 2**64 - 1, 2**70 + 5):
        state = draws.seeded(draws.compiled_seed(seed))
        assert state == draws.hashed(seed)
        for key in (0, 1, 2**32, *keys):
            assert draws.combined(state, key) == draws.hashed(seed, key)
            assert draws.uniform(state, key) == draws.uniforms(seed, key)
