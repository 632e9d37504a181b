"""What must hold for any batch of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvkit.images.crops import crop_box_one, crop_boxes, crop_numbers
from mvkit.images.settings import (
    Blur,
    CentreCrop,
    ColourJitter,
    Flip,
    Greyscale,
    Patches,
    RandomCrop,
    RandomResizedCrop,
    RawBatch,
    Solarise,
    View,
    ViewsSettings,
)
from mvkit.images.views import ViewMaker
from mvkit.rng import compiled_seed

FEW = settings(max_examples=30, deadline=None)
SEEDS = st.integers(0, 2**64 - 1)
KEYS = st.integers(0, 2**62)
SIDES = st.integers(1, 2000)


@st.composite
def intervals(draw: Any, low: float, high: float) -> tuple[float, float]:
    ends = sorted(draw(st.tuples(st.floats(low, high), st.floats(low, high))))
    return ends[0], ends[1]


@st.composite
def any_crop(draw: Any) -> Any:
    kind = draw(st.sampled_from(["random_resized", "random", "centre"]))
    if kind == "random_resized":
        return RandomResizedCrop(scale=draw(intervals(0.001, 1.0)), ratio=draw(intervals(0.2, 5.0)))
    resize_px = draw(st.integers(1, 300))
    if kind == "centre":
        return CentreCrop(resize_px=resize_px, crop_px=draw(st.integers(1, resize_px)))
    pad_px = draw(st.integers(0, 20))
    return RandomCrop(
        resize_px=resize_px, pad_px=pad_px, crop_px=draw(st.integers(1, resize_px + 2 * pad_px))
    )


@given(crop=any_crop(), seed=SEEDS, epoch=KEYS, index=KEYS, size=st.tuples(SIDES, SIDES))
@settings(max_examples=200, deadline=None)
def test_boxes_lie_inside_and_decoders_agree(
    crop: Any, seed: int, epoch: int, index: int, size: tuple[int, int]
) -> None:
    boxes = crop_boxes(crop, seed, epoch, np.array([index]), 1, np.array(size[:1]), np.array(size[1:]))
    box = crop_box_one(crop_numbers(crop), compiled_seed(seed), epoch, index, 1, *size)
    assert boxes.tolist() == [list(box)]
    top, left, height, width = box
    assert height >= 1 and width >= 1
    for start, side, length in ((top, height, size[0]), (left, width, size[1])):
        resized = crop.resize_px * length // min(size) if crop.name == "random" else length
        pad = round(getattr(crop, "pad_px", 0) * length / resized)
        assert -pad <= start <= length + pad - side


@FEW
@given(seed=SEEDS, epoch=st.integers(0, 1000), order=st.permutations(range(20)), n=st.integers(1, 20))
def test_boxes_do_not_depend_on_the_batch(seed: int, epoch: int, order: list[int], n: int) -> None:
    rng = np.random.default_rng(0)
    index, heights, widths = rng.integers(10, 900, (3, 20))
    chosen = np.array(order[:n])
    whole = crop_boxes(RandomResizedCrop(), seed, epoch, index, 0, heights, widths)
    part = crop_boxes(RandomResizedCrop(), seed, epoch, index[chosen], 0, heights[chosen], widths[chosen])
    np.testing.assert_array_equal(part, whole[chosen])


STEPS = st.lists(
    st.sampled_from(
        [
            Flip(),
            Greyscale(),
            ColourJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4, probability=0.8),
            Blur(),
            Solarise(),
        ]
    ),
    max_size=5,
)


@FEW
@given(
    steps=STEPS,
    seed=SEEDS,
    order=st.permutations(range(9)),
    n=st.integers(1, 9),
    threads=st.integers(1, 3),
    patches=st.booleans(),
)
def test_views_do_not_depend_on_the_batch_its_order_or_threads(
    steps: list[Any], seed: int, order: list[int], n: int, threads: int, patches: bool
) -> None:
    expand = Patches(cell_px=5, patch_px=3) if patches else None
    views = ViewsSettings(
        views=(View(crop=RandomResizedCrop(), steps=tuple(steps)),), size_px=15, expand=expand
    )
    rng = np.random.default_rng(0)
    crops = torch.from_numpy(rng.integers(0, 256, (9, 15, 15, 3), dtype=np.uint8))
    index = torch.from_numpy(rng.integers(0, 2**40, 9))
    cpu = torch.device("cpu")
    whole = ViewMaker(views, seed=seed, device=cpu, threads=1)(RawBatch(crops=(crops,), index=index), epoch=3)
    chosen = torch.tensor(order[:n])
    raw = RawBatch(crops=(crops[chosen],), index=index[chosen])
    part = ViewMaker(views, seed=seed, device=cpu, threads=threads)(raw, epoch=3)
    assert len(whole.views) == len(part.views)
    for view, expected in zip(part.views, whole.views, strict=True):
        assert torch.equal(view, expected[chosen])
        assert bool(torch.isfinite(view).all())
