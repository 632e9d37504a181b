"""Operations on pixels, on the CPU and batched, against torchvision on the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_image
from torch import Tensor
from torchvision.transforms import functional

from mvkit.images import augment
from mvkit.images.augment import AugmentParams, ViewKey, augment_batch, augment_images, draw_params
from mvkit.images.settings import Blur, ColourJitter, Flip, Greyscale, Solarise

CarryOut = Callable[..., Tensor]
UNIT = (np.zeros(3, np.float32), np.ones(3, np.float32))
IMAGENET = (np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32))


def on_cpu(crops: np.ndarray, params: AugmentParams, norm: Any = UNIT) -> Tensor:
    out = np.full((len(crops), 3, *crops.shape[1:3]), np.nan, np.float32)
    augment_images(crops, (params.operations, params.amounts, params.taps), norm, out)
    return torch.from_numpy(out)


def batched(crops: np.ndarray, params: AugmentParams, norm: Any = UNIT) -> Tensor:
    return augment_batch(torch.from_numpy(crops), params, *map(torch.from_numpy, norm))


@pytest.fixture(params=[on_cpu, batched])
def carry_out(request: pytest.FixtureRequest) -> CarryOut:
    """Both ways to apply a params."""
    function: CarryOut = request.param
    return function


def images(*, n: int = 8, height: int = 37, width: int = 37) -> np.ndarray:
    """Random pixels, of which some are grey, black, white, pure, or have two equal channels."""
    pixels = np.random.default_rng(4).integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    pixels[:, 0] = pixels[:, 0, :, :1]
    pixels[:, 1, : width // 2], pixels[:, 1, width // 2 :] = 0, 255
    pixels[:, 2] = np.where(pixels[:, 2] > 127, 255, 0)
    pixels[:, 3, :, 0] = pixels[:, 3, :, 1]
    pixels[:, 4, :, 1] = pixels[:, 4, :, 2]
    pixels[:, 5, :, 2] = pixels[:, 5, :, 0]
    return pixels


def scaled(crops: np.ndarray) -> Tensor:
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255


def one_operation(operation: int, amounts: Any) -> AugmentParams:
    column = np.asarray(amounts, np.float32)[:, None]
    return AugmentParams(
        operations=np.full(column.shape, operation),
        amounts=column,
        taps=np.zeros((*column.shape, 0), np.float32),
    )


def interpreted(image: Tensor, params: AugmentParams, row: int) -> Tensor:
    """One image (3, height, width) through torchvision's functions on a params's parameters."""
    taps = params.taps.shape[2]
    for operation, amount in zip(params.operations[row], params.amounts[row].tolist(), strict=True):
        if operation == augment.FLIP:
            image = functional.hflip(image)
        elif operation == augment.BRIGHTNESS:
            image = functional.adjust_brightness(image, amount)
        elif operation == augment.CONTRAST:
            image = functional.adjust_contrast(image, amount)
        elif operation == augment.SATURATION:
            image = functional.adjust_saturation(image, amount)
        elif operation == augment.HUE:
            image = functional.adjust_hue(image, amount)
        elif operation == augment.BLUR:
            image = functional.gaussian_blur(image, [taps, taps], [amount, amount])
        elif operation == augment.SOLARISE:
            image = functional.solarize(image, amount)
    return image


FACTORS = (0.0, 0.2, 0.6, 0.999, 1.0, 1.1, 1.4, 3.0)


@pytest.mark.parametrize(
    ("operation", "reference", "amounts"),
    [
        (augment.BRIGHTNESS, functional.adjust_brightness, FACTORS),
        (augment.CONTRAST, functional.adjust_contrast, FACTORS),
        (augment.SATURATION, functional.adjust_saturation, FACTORS),
        (augment.HUE, functional.adjust_hue, (-0.5, -0.4, -1 / 3, -1e-4, 0.0, 1 / 6, 0.3, 0.5)),
    ],
    ids=["brightness", "contrast", "saturation", "hue"],
)
def test_colours_change_as_torchvisions(
    carry_out: CarryOut, operation: int, reference: Any, amounts: tuple[float, ...]
) -> None:
    crops = images(n=len(amounts))
    found = carry_out(crops, one_operation(operation, amounts))
    for image, amount, result in zip(scaled(crops), np.float32(amounts).tolist(), found, strict=True):
        torch.testing.assert_close(result, reference(image, amount), rtol=0, atol=2e-6)


def test_hue_keeps_greys_and_goes_round() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), 3, axis=3)
    np.testing.assert_array_equal(on_cpu(grey, one_operation(augment.HUE, [0.3])), scaled(grey))
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[..., 0] = 255
    turned = on_cpu(red, one_operation(augment.HUE, [1 / 3]))
    torch.testing.assert_close(turned[0, :, 0, 0], torch.tensor([0.0, 1.0, 0.0]), rtol=0, atol=1e-6)


def test_grey_is_torchvisions_luma(carry_out: CarryOut) -> None:
    crops = images()
    params = draw_params([Greyscale(probability=1.0)], np.arange(8), ViewKey(0, 0, 0), side_px=37)
    expected = functional.rgb_to_grayscale(scaled(crops), 3)
    torch.testing.assert_close(carry_out(crops, params), expected, rtol=0, atol=1e-7)


def test_flips_are_exact(carry_out: CarryOut) -> None:
    crops = images()
    params = draw_params([Flip(probability=1.0)], np.arange(8), ViewKey(0, 0, 0), side_px=37)
    torch.testing.assert_close(carry_out(crops, params), functional.hflip(scaled(crops)), rtol=0, atol=0)


@pytest.mark.parametrize("threshold", [0, 1, 77, 128, 255, 256])
def test_solarising_is_torchvisions_of_8_bit_images(carry_out: CarryOut, threshold: int) -> None:
    crops = images()
    step = Solarise(probability=1.0, threshold=threshold)
    found = carry_out(crops, draw_params([step], np.arange(8), ViewKey(0, 0, 0), side_px=37))
    levels = torch.from_numpy(crops).permute(0, 3, 1, 2)
    expected = functional.solarize(levels, threshold) if threshold < 256 else levels
    torch.testing.assert_close(found * 255, expected.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("at_px", [None, 224])
@pytest.mark.parametrize("size", [(64, 64), (9, 14)], ids=str)
def test_blurring_is_torchvisions(carry_out: CarryOut, at_px: int | None, size: tuple[int, int]) -> None:
    crops = images(height=size[0], width=size[1])
    step = Blur(sigma_px=(0.1, 2.0), at_px=at_px, probability=1.0)
    params = draw_params([step], np.arange(8), ViewKey(0, 0, 0), side_px=size[0])
    taps = params.taps.shape[2]
    found = carry_out(crops, params)
    for image, sigma, result in zip(scaled(crops), params.amounts[:, 0].tolist(), found, strict=True):
        expected = functional.gaussian_blur(image, [taps, taps], [sigma, sigma])
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5, 2.0])
def test_blurring_small_is_close_to_blurring_large_with_pil(sigma: float) -> None:
    """The published order on a photograph: PIL's blur at 224 px, then 64 px."""
    photograph = load_sample_image("china.jpg")[100:324, 200:424]
    large = Image.fromarray(np.ascontiguousarray(photograph))
    small = Image.Resampling.BILINEAR
    published = large.filter(ImageFilter.GaussianBlur(sigma)).resize((64, 64), small)
    crop = np.array(large.resize((64, 64), small))[None]
    step = Blur(sigma_px=(sigma, sigma), at_px=224, probability=1.0)
    blurred = on_cpu(crop, draw_params([step], np.arange(1), ViewKey(0, 0, 0), side_px=64))
    expected = torch.from_numpy(np.array(published)).permute(2, 0, 1)
    left = float((blurred[0] * 255 - expected).abs().mean())
    untouched = float((scaled(crop)[0] * 255 - expected).abs().mean())
    assert left < min(1.0, 0.85 * untouched)


def test_normalising_alone_is_torchvisions_to_the_last_bit(carry_out: CarryOut) -> None:
    crops = images()
    expected = functional.normalize(scaled(crops), IMAGENET[0].tolist(), IMAGENET[1].tolist())
    found = carry_out(crops, draw_params([], np.arange(8), ViewKey(0, 0, 0), side_px=37), IMAGENET)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


CHAINS = {
    "instance_recognition": (
        Greyscale(probability=0.2),
        ColourJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
        Flip(),
    ),
    "simclr": (
        Flip(),
        ColourJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, probability=0.8),
        Greyscale(),
        Blur(),
    ),
    "barlow_twins": (
        Flip(),
        ColourJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, probability=0.8),
        Greyscale(),
        Blur(probability=0.1),
        Solarise(),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("side", [64, 31])
def test_chains_are_torchvisions_on_the_same_parameters(carry_out: CarryOut, name: str, side: int) -> None:
    n = 40
    crops = images(n=n, height=side, width=side)
    params = draw_params(CHAINS[name], np.arange(n), ViewKey(1, 2, 0), side_px=side)
    found = carry_out(crops, params, IMAGENET)
    for row, image in enumerate(scaled(crops)):
        expected = interpreted(image, params, row)
        expected = functional.normalize(expected, IMAGENET[0].tolist(), IMAGENET[1].tolist())
        torch.testing.assert_close(found[row], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", CHAINS)
def test_both_ways_agree(name: str) -> None:
    crops = images(n=100, height=64, width=64)
    params = draw_params(CHAINS[name], np.arange(100), ViewKey(5, 0, 1), side_px=64)
    torch.testing.assert_close(
        batched(crops, params, IMAGENET), on_cpu(crops, params, IMAGENET), rtol=0, atol=2e-5
    )


def test_rows_of_one_column_may_do_different_things(carry_out: CarryOut) -> None:
    crops = images(n=8)
    operations = np.arange(8, dtype=np.int64)[:, None]
    amounts = np.array([9.0, 9.0, 0.5, 0.5, 0.5, 0.2, 0.8, 0.5], np.float32)[:, None]
    taps = np.zeros((8, 1, 5), np.float32)
    taps[:] = np.array([0.1, 0.2, 0.4, 0.2, 0.1], np.float32)
    taps[augment.BLUR, 0] = draw_params(
        [Blur(sigma_px=(0.8, 0.8), at_px=None, probability=1.0)], np.arange(1), ViewKey(0, 0, 0), side_px=37
    ).taps[0, 0, 1:-1]
    params = AugmentParams(operations=operations, amounts=amounts, taps=taps)
    found = carry_out(crops, params)
    for row, image in enumerate(scaled(crops)):
        if row != augment.BLUR:
            torch.testing.assert_close(found[row], interpreted(image, params, row), rtol=0, atol=2e-6)
    centre = scaled(crops)[augment.BLUR]
    window = centre[:, 8:13, 8:13]
    weights = torch.from_numpy(np.outer(taps[augment.BLUR, 0], taps[augment.BLUR, 0]))
    torch.testing.assert_close(
        found[augment.BLUR, :, 10, 10], (window * weights).sum(dim=(1, 2)), rtol=0, atol=1e-6
    )
