"""What is drawn for the images of a batch."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import ColorJitter
from torchvision.transforms._functional_tensor import _get_gaussian_kernel1d

from mvkit.images import augment
from mvkit.images.augment import ViewKey, blur_radius, draw_params
from mvkit.images.settings import Blur, ColourJitter, Flip, Greyscale, Solarise

MANY = np.arange(24000, dtype=np.int64)
KEY = ViewKey(seed=2, epoch=5, view=1)
JITTER = ColourJitter(brightness=0.4, contrast=0.3, saturation=0.8, hue=0.2)


def drawn(*steps: Any, index: Any = MANY, key: ViewKey = KEY, side_px: int = 64) -> augment.AugmentParams:
    return draw_params(steps, index, key, side_px=side_px)


def amounts_of(params: augment.AugmentParams, operation: int) -> np.ndarray:
    return params.amounts[params.operations == operation]


@pytest.mark.parametrize(
    ("step", "operation", "amount"),
    [
        (Flip(probability=0.3), augment.FLIP, None),
        (Greyscale(probability=0.3), augment.SATURATION, 0.0),
        (Solarise(probability=0.3, threshold=100), augment.SOLARISE, np.float32(99.5 / 255)),
        (Blur(probability=0.3), augment.BLUR, None),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_step_happens_as_often_as_it_should(step: Any, operation: int, amount: Any) -> None:
    params = drawn(step)
    assert params.operations.shape == (MANY.size, 1)
    count = int((params.operations == operation).sum())
    assert count + int((params.operations == augment.NOTHING).sum()) == MANY.size
    assert stats.binomtest(count, MANY.size, 0.3).pvalue > 1e-4
    if amount is not None:
        assert set(amounts_of(params, operation).tolist()) == {float(amount)}


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_never_and_always_mean_it(probability: float) -> None:
    operations = drawn(Flip(probability=probability)).operations
    assert (operations == (augment.FLIP if probability else augment.NOTHING)).all()


def test_jitter_is_drawn_from_torchvisions_ranges() -> None:
    reference = ColorJitter(brightness=0.4, contrast=0.3, saturation=1.5, hue=0.2)
    jitter = ColourJitter(brightness=0.4, contrast=0.3, saturation=1.5, hue=0.2)
    params = drawn(jitter)
    ranges = {
        augment.BRIGHTNESS: reference.brightness,
        augment.CONTRAST: reference.contrast,
        augment.SATURATION: reference.saturation,
        augment.HUE: reference.hue,
    }
    for operation, (low, high) in ranges.items():
        values = amounts_of(params, operation).astype(float)
        assert values.size == MANY.size
        assert values.min() >= np.float32(low) and values.max() <= np.float32(high)
        assert stats.kstest(values, "uniform", args=(low, high - low)).pvalue > 1e-4


def test_every_order_of_the_jitter_is_equally_likely() -> None:
    orders = [tuple(row) for row in drawn(JITTER).operations.tolist()]
    counts = [orders.count(order) for order in permutations(range(augment.BRIGHTNESS, augment.HUE + 1))]
    assert sum(counts) == MANY.size
    assert stats.chisquare(counts).pvalue > 1e-4


def test_the_jitter_happens_whole_or_not_at_all() -> None:
    nothing = drawn(ColourJitter(brightness=0.4, hue=0.1, probability=0.8)).operations == augment.NOTHING
    assert nothing.shape[1] == 2
    np.testing.assert_array_equal(nothing[:, 0], nothing[:, 1])
    assert stats.binomtest(int((~nothing[:, 0]).sum()), MANY.size, 0.8).pvalue > 1e-4


def test_amounts_are_independent_of_order_and_of_each_other() -> None:
    params = drawn(JITTER)
    by_operation = {
        operation: params.amounts[params.operations == operation]
        for operation in range(augment.BRIGHTNESS, augment.HUE + 1)
    }
    place = np.argmax(params.operations == augment.HUE, axis=1)
    table = np.stack([*by_operation.values(), place], axis=0)
    correlations = np.corrcoef(table)[np.triu_indices(len(table), 1)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(MANY.size)


def test_strengths_of_zero_leave_nothing_to_do() -> None:
    assert drawn(ColourJitter()).operations.shape == (MANY.size, 0)
    assert set(np.unique(drawn(ColourJitter(hue=0.1)).operations)) == {augment.HUE}
    assert drawn().operations.shape == (MANY.size, 0)


@pytest.mark.parametrize("side_px", [64, 128, 224])
def test_a_blurs_spread_scales_with_the_view(side_px: int) -> None:
    for sigma in (0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 4.0):
        step = Blur(sigma_px=(sigma, sigma), at_px=224, probability=1.0)
        width = drawn(step, index=MANY[:1], side_px=side_px).amounts[0, 0].astype(float)
        pixel = np.arange(-40, 41)
        weights = np.exp(-0.5 * (pixel / width) ** 2)
        spread = np.sqrt((weights * pixel**2).sum() / weights.sum())
        np.testing.assert_allclose(spread, sigma * side_px / 224, rtol=1e-3)


def test_widths_of_blurs_are_drawn_evenly() -> None:
    step = Blur(sigma_px=(0.1, 2.0), at_px=None, probability=1.0)
    assert stats.kstest(drawn(step).amounts[:, 0].astype(float), "uniform", args=(0.1, 1.9)).pvalue > 1e-4
    scaled = drawn(Blur(sigma_px=(0.1, 2.0), at_px=224, probability=1.0), side_px=2240).amounts[:, 0]
    assert stats.kstest(scaled.astype(float), "uniform", args=(1.0, 19.0)).pvalue > 1e-4


def test_a_blur_takes_in_three_widths_or_the_whole_view() -> None:
    step = Blur(sigma_px=(0.1, 2.0), at_px=224)
    assert [blur_radius(step, side_px) for side_px in (64, 224)] == [2, 6]
    assert blur_radius(Blur(sigma_px=(0.1, 2.0), at_px=None), 4) == 3


def test_taps_are_torchvisions_kernel() -> None:
    step = Blur(sigma_px=(0.1, 2.0), at_px=None, probability=1.0)
    params = drawn(step, index=MANY[:50])
    assert params.taps.shape == (50, 1, 13)
    for sigma, taps in zip(params.amounts[:, 0], params.taps[:, 0], strict=True):
        kernel = _get_gaussian_kernel1d(13, float(sigma), torch.float64, torch.device("cpu"))
        np.testing.assert_allclose(taps, kernel.numpy(), rtol=0, atol=1e-7)


def test_equal_steps_at_different_positions_and_views_are_drawn_anew() -> None:
    params = drawn(Flip(), Flip())
    assert abs(np.corrcoef(params.operations.T)[0, 1]) < 4.5 / np.sqrt(MANY.size)
    for other in (ViewKey(2, 5, 0), ViewKey(2, 6, 1), ViewKey(3, 5, 1)):
        both = np.stack([params.operations[:, 0], drawn(Flip(), key=other).operations[:, 0]])
        assert abs(np.corrcoef(both)[0, 1]) < 4.5 / np.sqrt(MANY.size)


def test_a_step_draws_the_same_whatever_follows_it() -> None:
    alone = drawn(Flip(), JITTER)
    followed = drawn(Flip(), JITTER, Greyscale(), Blur())
    np.testing.assert_array_equal(followed.operations[:, :5], alone.operations)
    np.testing.assert_array_equal(followed.amounts[:, :5], alone.amounts)


def test_flips_are_counted() -> None:
    params = drawn(Flip(), Greyscale(), Flip())
    both = (params.operations == augment.FLIP).sum(axis=1)
    assert set(both) == {0, 1, 2}
    np.testing.assert_array_equal(params.flips(), both == 1)
