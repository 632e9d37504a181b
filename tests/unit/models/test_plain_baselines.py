"""Baselines without weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mvkit.gabor import gabor_energies
from mvkit.models import load_model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64), dtype=np.uint8)


def test_pixels_are_the_grey_levels(images):
    model = load_model("pixels")
    features = model(model.preprocess(images))
    assert features.dtype == torch.float32
    np.testing.assert_array_equal(features.numpy(), (images.astype(np.float32) / 255).reshape(5, 4096))


def test_pixels_of_a_larger_image_are_a_resized_central_square():
    """A 128 x 192 px image whose left and right quarters differ: only the central square is left."""
    image = np.zeros((1, 128, 192), np.uint8)
    image[:, :, 32:160] = 200
    model = load_model("pixels")
    features = model(model.preprocess(image)).reshape(64, 64)
    # Resizing blurs the border of the square by less than two of its pixels.
    assert torch.equal(features[:, 2:-2], torch.full((64, 60), 200 / 255))


def test_gabor_equals_the_numpy_filters(images):
    model = load_model("gabor")
    features = model(model.preprocess(images))
    expected = gabor_energies(images / 255)
    assert features.dtype == torch.float32
    assert features.shape == expected.shape
    np.testing.assert_allclose(features.numpy(), expected, rtol=0, atol=1e-6 * expected.max())


def test_colours_count_equally_when_channels_differ():
    channels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(load_model("pixels")(channels), channels.mean(dim=1).flatten(1))


@pytest.mark.parametrize("name", ["pixels", "gabor"])
def test_baselines_have_no_weights_whatever_is_asked_for(name):
    model = load_model(name, weights="random", seed=3)
    assert model.weights_id == "none"
    assert not model.state_dict()
    assert not list(model.parameters())
    assert (model.name, model.training) == (name, False)
