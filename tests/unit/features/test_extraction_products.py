"""Inner products on a device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mvkit.features.extraction import DeviceProducts
from mvkit.scoring.gram import BLOCK_FEATURES, layer_coordinates

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_products_are_those_of_numpy_in_float64(device: str) -> None:
    block = 1e3 + np.random.default_rng(0).standard_normal((20, 500))
    found = DeviceProducts(device)(block)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, block @ block.T, rtol=1e-13)


@pytest.mark.parametrize("device", DEVICES)
def test_coordinates_of_a_wide_layer_have_the_same_inner_products(device: str) -> None:
    features = np.random.default_rng(1).standard_normal((30, BLOCK_FEATURES + 100)).astype(np.float32)
    found = layer_coordinates("a", features, DeviceProducts(device)).coordinates
    expected = layer_coordinates("a", features).coordinates
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
