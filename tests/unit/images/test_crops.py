"""Boxes of crops, against torchvision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop as Reference
from torchvision.transforms import functional

from mvkit import rng as draws
from mvkit.errors import DataError
from mvkit.images import crops
from mvkit.images.crops import check_sizes, crop_box_one, crop_boxes, crop_numbers
from mvkit.images.settings import VALIDATION, CentreCrop, RandomCrop, RandomResizedCrop, View, ViewsSettings
from mvkit.rng import compiled_seed

SEED, EPOCH, VIEW = 11, 3, 1
SIZES = ((224, 224), (256, 341), (500, 375), (64, 64), (33, 97), (20, 200), (300, 31), (1, 1), (2, 9))


def boxes_of(crop: Any, n: int, height: int, width: int) -> np.ndarray:
    return crop_boxes(crop, SEED, EPOCH, np.arange(n), VIEW, np.full(n, height), np.full(n, width))


class FromDraws:
    """Stands in for torch's generator inside torchvision: hands out mvkit's draws of one image."""

    def __init__(self, index: int) -> None:
        numbers = np.arange(4 * crops.ATTEMPTS)
        drawn = draws.uniforms(SEED, draws.CROP, EPOCH, index, VIEW, numbers).reshape(-1, 4)
        self.attempts: Iterator[np.ndarray] = iter(drawn)
        self.left: list[float] = []

    def uniform(self, low: Any, high: Any) -> torch.Tensor:
        if len(self.left) != 3:  # a new attempt begins with the area
            self.left = next(self.attempts).tolist()
        value = float(low) + self.left.pop(0) * (float(high) - float(low))
        return torch.tensor([value], dtype=torch.float64)

    def randint(self, low: int, high: int, size: Any) -> torch.Tensor:
        return torch.tensor([low + int(self.left.pop(0) * (high - low))])


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.2, 1.0), (0.9, 1.0)], ids=str)
def test_random_resized_boxes_are_torchvisions_for_the_same_draws(
    size: tuple[int, int], scale: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    crop = RandomResizedCrop(scale=scale)
    mine = boxes_of(crop, 60, *size)
    image = torch.empty(3, *size)
    source = FromDraws(0)
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda _, low, high: source.uniform(low, high))
    monkeypatch.setattr(torch, "randint", lambda low, high, size: source.randint(low, high, size))
    for index, box in enumerate(mine):
        source = FromDraws(index)
        assert tuple(box) == Reference.get_params(image, list(crop.scale), list(crop.ratio))


@pytest.mark.parametrize("size", [(10, 1000), (1000, 10), (7, 100), (333, 20)], ids=str)
def test_the_fallback_is_torchvisions(size: tuple[int, int]) -> None:
    # The whole area in a ratio near 1 never fits these images, whatever is drawn.
    crop = RandomResizedCrop(scale=(1.0, 1.0), ratio=(0.7, 1.5))
    expected = Reference.get_params(torch.empty(3, *size), list(crop.scale), list(crop.ratio))
    np.testing.assert_array_equal(boxes_of(crop, 20, *size), np.tile(expected, (20, 1)))


def test_random_resized_boxes_are_distributed_as_torchvisions() -> None:
    height, width, n = 375, 500, 4000
    crop = RandomResizedCrop()
    image = torch.empty(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([Reference.get_params(image, [*crop.scale], [*crop.ratio]) for _ in range(n)])
    mine = boxes_of(crop, n, height, width)

    def described(boxes: np.ndarray) -> dict[str, np.ndarray]:
        top, left, box_height, box_width = boxes.T.astype(float)
        return {
            "area": box_height * box_width,
            "ratio": box_width / box_height,
            "row": top / (height - box_height + 1),
            "column": left / (width - box_width + 1),
        }

    for name, values in described(mine).items():
        assert stats.ks_2samp(values, described(theirs)[name]).pvalue > 1e-4, name


@pytest.mark.parametrize(
    "crop",
    [
        RandomResizedCrop(),
        RandomCrop(crop_px=32, pad_px=4),
        RandomCrop(resize_px=292, crop_px=255),
        CentreCrop(),
    ],
    ids=lambda crop: crop.name,
)
def test_a_compiled_decoder_gets_the_same_boxes(crop: Any) -> None:
    numbers = crop_numbers(crop)
    rng = np.random.default_rng(0)
    heights, widths = rng.integers(32, 700, (2, 50))
    index = rng.integers(0, 2**40, 50)

    @numba.njit(nogil=True)
    def decode(position: Any, height: Any, width: Any, seed: int) -> Any:
        return crop_box_one(numbers, seed, 5, position, 2, height, width)

    for seed in (0, 7, 2**40, 2**63 + 1, 2**64 - 1):
        boxes = crop_boxes(crop, seed, 5, index, 2, heights, widths)
        one = compiled_seed(seed)
        found = [
            # Decoders see the types of ffcv's metadata.
            decode(np.uint64(at), np.uint16(height), np.uint16(width), one)
            for at, height, width in zip(index, heights, widths, strict=True)
        ]
        np.testing.assert_array_equal(found, boxes)


def test_cifar_boxes_are_a_padded_images_crops() -> None:
    """Zeros outside: the same pixels as torchvision's pad, then crop; every place equally often."""
    crop = RandomCrop(crop_px=32, pad_px=4)
    boxes = boxes_of(crop, 8100, 32, 32)
    assert (boxes[:, 2:] == 32).all()
    places = (boxes[:, 0] + 4) * 9 + boxes[:, 1] + 4
    counts = np.bincount(places, minlength=81)
    assert counts.size == 81
    assert stats.chisquare(counts).pvalue > 1e-4
    image = torch.randint(1, 256, (3, 32, 32), generator=torch.Generator().manual_seed(1))
    padded = functional.pad(image, [4, 4, 4, 4])
    top, left = boxes[0, :2].tolist()
    expected = functional.crop(padded, top + 4, left + 4, 32, 32)
    # torchvision's crop of the image itself also reads zeros outside
    assert torch.equal(functional.crop(image, top, left, 32, 32), expected)


@pytest.mark.parametrize("size", [(256, 256), (256, 341), (301, 256), (256, 257), (500, 256)], ids=str)
def test_the_central_box_is_torchvisions(size: tuple[int, int]) -> None:
    image = torch.arange(size[0] * size[1]).view(1, *size)
    top, left, height, width = boxes_of(CentreCrop(), 1, *size)[0].tolist()
    expected = functional.center_crop(image, [224, 224])
    assert torch.equal(image[:, top : top + height, left : left + width], expected)


@pytest.mark.parametrize(
    "crop", [CentreCrop(), RandomCrop(resize_px=292, crop_px=255)], ids=lambda crop: crop.name
)
@pytest.mark.parametrize("size", [(64, 64), (375, 500), (96, 128), (1200, 800), (129, 200)], ids=str)
def test_boxes_of_images_stored_at_another_size_are_scaled(crop: Any, size: tuple[int, int]) -> None:
    shortest = min(size)
    scale = shortest / crop.resize_px
    for top, left, height, width in boxes_of(crop, 200, *size).tolist():
        assert 0 <= top <= size[0] - height and 0 <= left <= size[1] - width
        assert abs(height - crop.crop_px * scale) <= 1 and abs(width - crop.crop_px * scale) <= 1
        if crop.name == "centre":
            assert abs(top + height / 2 - size[0] / 2) <= 1 and abs(left + width / 2 - size[1] / 2) <= 1


def test_a_crop_of_nothing_is_the_whole_image() -> None:
    assert boxes_of(CentreCrop(resize_px=None, crop_px=None), 1, 30, 70).tolist() == [[0, 0, 30, 70]]


def test_too_small_images_are_refused_by_name_and_centred_by_decoders() -> None:
    crop = RandomCrop(crop_px=40, pad_px=3)
    heights, widths = np.array([40, 33, 34]), np.array([50, 60, 34])
    with pytest.raises(
        DataError, match="1 images are too small for a crop of 40 px, the first with 60 x 33 px"
    ):
        crop_boxes(crop, 0, 0, np.arange(3), 0, heights, widths)
    check_sizes(RandomCrop(crop_px=40, resize_px=40), heights, widths)
    assert crop_box_one(crop_numbers(crop), 0, 0, 1, 0, 30, 33) == (-5, -4, 40, 40)


def test_what_loaders_deliver() -> None:
    settings = ViewsSettings(views=(View(crop=RandomResizedCrop()), View(crop=CentreCrop())), size_px=48)
    assert crops.output_px(CentreCrop(), settings) == 48
    with pytest.raises(ValueError, match="not a crop of these views"):
        crops.output_px(RandomCrop(crop_px=8), settings)
    assert crops.output_px(VALIDATION.views[0].crop, VALIDATION) == 64
    assert crops.intermediate_px(RandomResizedCrop()) == 224
    assert crops.intermediate_px(RandomResizedCrop(via_px=None)) is None
    assert crops.intermediate_px(CentreCrop()) == 224
