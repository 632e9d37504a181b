"""Preprocessing against torchvision's transforms of PIL images, which the reference ran."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from mvkit.errors import DataError
from mvkit.models.preprocessing import GREY_64, IMAGENET_64, Preprocessing


def _images(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("size", [(918, 1174), (300, 257), (64, 64), (50, 90), (256, 256), (225, 401)])
@pytest.mark.parametrize("colour", [False, True])
def test_networks_get_what_torchvision_makes_of_pil_images(size, colour):
    images = _images((2, *size, 3) if colour else (2, *size))
    oracle = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.Resize(64),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    expected = torch.stack([oracle(Image.fromarray(image).convert("RGB")) for image in images])
    prepared = IMAGENET_64(images)
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(prepared, expected, rtol=0, atol=1e-6)


def test_grey_images_fill_three_channels_equally():
    plain = Preprocessing(64, 64, None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    prepared = plain(_images((3, 80, 70)))
    assert torch.equal(prepared[:, 0], prepared[:, 1])
    assert torch.equal(prepared[:, 0], prepared[:, 2])


def test_small_grey_images_reach_the_baselines_unchanged():
    images = _images((3, 64, 64))
    expected = torch.from_numpy(images).float() / 255
    for channel in range(3):
        assert torch.equal(GREY_64(images)[:, channel], expected)


def test_baselines_see_the_luma_of_colour_images():
    images = _images((2, 64, 64, 3))
    luma = images @ np.array([0.299, 0.587, 0.114])
    prepared = GREY_64(images)[:, 0].numpy() * 255
    # PIL rounds the luma to an integer.
    assert np.abs(prepared - luma).max() <= 1.0


def test_result_does_not_depend_on_the_batch():
    images = _images((5, 120, 90))
    together = IMAGENET_64(images)
    alone = torch.cat([IMAGENET_64(images[i : i + 1]) for i in range(5)])
    assert torch.equal(together, alone)


def test_input_is_not_changed_and_may_be_read_only():
    images = _images((2, 70, 70))
    before = images.copy()
    images.flags.writeable = False
    IMAGENET_64(images)
    GREY_64(images)
    assert (images == before).all()


@pytest.mark.parametrize("settings", [IMAGENET_64, GREY_64])
def test_no_images_give_an_empty_batch(settings):
    assert settings(np.empty((0, 100, 100), np.uint8)).shape == (0, 3, 64, 64)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 64, 64)),
        np.zeros((64, 64), np.uint8),
        np.zeros((2, 64, 64, 4), np.uint8),
        np.zeros((2, 0, 64), np.uint8),
    ],
)
def test_other_arrays_are_refused_with_their_shape(images):
    with pytest.raises(DataError, match=r"uint8 \(n_images, height, width\)") as caught:
        IMAGENET_64(images)
    assert str(images.shape) in str(caught.value)


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(DataError, match="40 x 30 px is too small for a central crop of 64 px"):
        Preprocessing(None, 64, None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))(np.zeros((1, 30, 40), np.uint8))


def test_fields_as_plain_data():
    assert IMAGENET_64.as_dict() == {
        "resize_px": 256,
        "crop_px": 224,
        "input_px": 64,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "grey": False,
    }
