"""The compiled crop and resize against PIL, which the published pipeline used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image

from mvkit.images.crops import crop_axes, crop_boxes, crop_image, crop_images, crop_planes
from mvkit.images.settings import CentreCrop, Crop, RandomCrop, RandomResizedCrop

CROPS: tuple[Crop, ...] = (
    RandomResizedCrop(),
    RandomResizedCrop(scale=(0.2, 1.0)),
    RandomResizedCrop(via_px=None),
    RandomCrop(resize_px=96, crop_px=80),
    RandomCrop(crop_px=48, pad_px=6),
    CentreCrop(),
    CentreCrop(resize_px=None, crop_px=50),
    CentreCrop(resize_px=64, crop_px=None),
)


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg"))


def _sized(photograph: Image.Image, width: int, height: int) -> Image.Image:
    return photograph.resize((width, height), Image.Resampling.BICUBIC)


def _resampled(image: Image.Image, crop: Crop, side_px: int, boxes: NDArray[np.int64]) -> NDArray[np.uint8]:
    pixels = np.asarray(image)
    n = len(boxes)
    heights, widths = np.full(n, image.height), np.full(n, image.width)
    out = np.empty((n, side_px, side_px, 3), np.uint8)
    places = np.stack([np.zeros(n, np.int64), heights, widths], axis=1)
    axes = crop_axes(crop, boxes, heights, widths)
    crop_images(pixels.reshape(-1), places, axes, np.arange(n), out)
    return out


def _boxes(image: Image.Image, crop: Crop, n: int) -> NDArray[np.int64]:
    sizes = np.full((2, n), [[image.height], [image.width]])
    return crop_boxes(crop, 3, 1, np.arange(n), 0, sizes[0], sizes[1])


@pytest.mark.parametrize("size", [(64, 64), (85, 64), (64, 90), (341, 256), (500, 375)])
@pytest.mark.parametrize("crop", CROPS, ids=str)
def test_a_crop_is_pils_but_for_rounding_between_its_steps(
    photograph: Image.Image, size: tuple[int, int], crop: Crop
) -> None:
    image = _sized(photograph, *size)
    boxes = _boxes(image, crop, 12)
    for side_px in (64, 32):
        ours = _resampled(image, crop, side_px, boxes)
        for row, box in zip(ours, boxes.tolist(), strict=True):
            expected = np.asarray(crop_image(image, crop, tuple(box), side_px))
            difference = np.abs(row.astype(int) - expected.astype(int))
            assert difference.max() <= 2
            assert difference.mean() < 0.3


def test_a_box_of_the_size_asked_for_is_copied(photograph: Image.Image) -> None:
    image = _sized(photograph, 90, 80)
    box = np.array([[7, 11, 64, 64]])
    crop = RandomResizedCrop(via_px=None)
    (copy,) = _resampled(image, crop, 64, box)
    np.testing.assert_array_equal(copy, np.asarray(image)[7:71, 11:75])


def test_outside_of_the_image_is_black(photograph: Image.Image) -> None:
    image = _sized(photograph, 40, 40)
    box = np.array([[-4, 2, 40, 40]])
    (out,) = _resampled(image, RandomCrop(crop_px=40, pad_px=4), 40, box)
    assert not out[:4].any()
    assert not out[:, -2:].any()
    np.testing.assert_array_equal(out[4:, :-2], np.asarray(image)[:36, 2:])


@pytest.mark.parametrize(
    "crop",
    [
        RandomResizedCrop(via_px=96),
        RandomCrop(resize_px=480, crop_px=224),
        RandomCrop(crop_px=56, pad_px=3),
        CentreCrop(resize_px=64, crop_px=56),
    ],
    ids=lambda crop: f"{crop.name}-{crop.model_dump().get('resize_px')}",
)
def test_depth_is_that_of_the_nearest_pixel_as_pils(crop: Any) -> None:
    rng = np.random.default_rng(0)
    # Sizes that put no centre of a pixel exactly on the border of another, where rounding would decide.
    depth = rng.uniform(0, 1, (61, 83)).astype(np.float32)
    boxes = _boxes(Image.fromarray(depth), crop, 5)
    axes = crop_axes(crop, boxes, np.full(5, 61), np.full(5, 83))
    out = np.empty((5, 1, 32, 32), np.float32)
    crop_planes(depth.reshape(-1), np.full((5, 3), [0, 61, 83]), axes, np.arange(5), out)
    for row, box in zip(out, boxes.tolist(), strict=True):
        nearest = Image.Resampling.NEAREST
        expected = np.asarray(crop_image(Image.fromarray(depth), crop, tuple(box), 32, nearest))
        np.testing.assert_array_equal(row[0], expected)
        # Values are the stored ones (or the black outside), never mixed.
        assert np.isin(row[0], [*depth.ravel(), 0]).all()
