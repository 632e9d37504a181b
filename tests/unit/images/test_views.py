"""From crops to batches."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mvkit.errors import DataError
from mvkit.images.augment import ViewKey, augment_batch, draw_params, patch_offsets
from mvkit.images.crops import crop_boxes
from mvkit.images.settings import (
    VALIDATION,
    Batch,
    Blur,
    CentreCrop,
    ColourJitter,
    Flip,
    Greyscale,
    Patches,
    RandomResizedCrop,
    RawBatch,
    Rotations,
    Solarise,
    View,
    ViewsSettings,
)
from mvkit.images.views import ViewMaker
from mvkit.models.preprocessing import IMAGENET_64

CPU = torch.device("cpu")
EVERYTHING = (
    Flip(),
    ColourJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8),
    Greyscale(),
    Blur(),
    Solarise(),
)
TWO = ViewsSettings(views=(View(crop=RandomResizedCrop(), steps=EVERYTHING, copies=2),), size_px=24)


def raw_batch(settings: ViewsSettings, n: int = 12, **others: Any) -> RawBatch:
    generator = torch.Generator().manual_seed(3)
    side = settings.size_px
    pixels = torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=generator)
    crops = tuple(pixels.clone() for _ in settings.each())
    return RawBatch(crops=crops, index=torch.arange(n) * 7 + 1, **others)


def made(settings: ViewsSettings, raw: RawBatch, *, seed: int = 1, epoch: int = 0, threads: int = 1) -> Batch:
    return ViewMaker(settings, seed=seed, device=CPU, threads=threads)(raw, epoch=epoch)


def same(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def test_views_are_programs_of_their_own_steps() -> None:
    settings = ViewsSettings(
        views=(
            View(crop=RandomResizedCrop(), steps=(Flip(), Greyscale(probability=0.5)), copies=2),
            View(crop=CentreCrop(), steps=(Solarise(probability=0.5),)),
        ),
        size_px=24,
    )
    raw = raw_batch(settings)
    batch = made(settings, raw, seed=4, epoch=9)
    mean, std = torch.tensor(settings.mean), torch.tensor(settings.std)
    assert len(batch.views) == 3
    for number, view in enumerate(settings.each()):
        params = draw_params(view.steps, raw.index.numpy(), ViewKey(4, 9, number), side_px=24)
        expected = augment_batch(raw.crops[number], params, mean, std)
        torch.testing.assert_close(batch.views[number], expected, rtol=0, atol=2e-5)


def test_seed_epoch_and_view_each_draw_anew() -> None:
    raw = raw_batch(TWO)
    first = made(TWO, raw).views
    assert same(first, made(TWO, raw).views)
    assert not torch.equal(first[0], first[1])
    for other in (made(TWO, raw, seed=2), made(TWO, raw, epoch=1)):
        assert not torch.equal(other.views[0], first[0]) and not torch.equal(other.views[1], first[1])


@pytest.mark.parametrize("threads", [2, 3, 50])
def test_threads_change_no_bit(threads: int) -> None:
    raw = raw_batch(TWO)
    assert same(made(TWO, raw, threads=threads).views, made(TWO, raw).views)


FORKING = """
import os, torch
from mvkit.images.settings import RawBatch
from mvkit.images.settings import VALIDATION
from mvkit.images.views import ViewMaker
maker = ViewMaker(VALIDATION, seed=0, device=torch.device("cpu"), threads=2)
raw = RawBatch(crops=(torch.zeros(4, 64, 64, 3, dtype=torch.uint8),), index=torch.arange(4))
before = maker(raw, epoch=0).views[0].sum().item()
child = os.fork()
if child == 0:
    os._exit(0 if maker(raw, epoch=0).views[0].sum().item() == before else 3)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_does_not_wait_for_its_parents_threads() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKING], check=True, timeout=120)


def test_an_empty_batch_has_empty_views() -> None:
    batch = made(TWO, raw_batch(TWO, n=0))
    assert [tuple(view.shape) for view in batch.views] == [(0, 3, 24, 24)] * 2


def test_the_loaders_buffers_are_left_as_they_were() -> None:
    raw = raw_batch(TWO)
    before = [crop.clone() for crop in raw.crops]
    made(TWO, raw)
    assert same(tuple(before), raw.crops)


def test_labels_and_index_come_along() -> None:
    raw = raw_batch(TWO, label=torch.arange(12) % 5)
    batch = made(TWO, raw)
    assert batch.label is not None and torch.equal(batch.label, torch.arange(12) % 5)
    assert torch.equal(batch.index, raw.index)
    assert batch.target is None
    assert made(TWO, raw_batch(TWO)).label is None


def test_validation_views_are_the_models_preprocessing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 256, 300, 3), dtype=np.uint8)
    crop = VALIDATION.views[0].crop
    boxes = crop_boxes(crop, 0, 0, np.arange(5), 0, np.full(5, 256), np.full(5, 300))
    delivered = [
        Image.fromarray(image[top : top + height, left : left + width]).resize(
            (64, 64), Image.Resampling.BILINEAR
        )
        for image, (top, left, height, width) in zip(pixels, boxes, strict=True)
    ]
    crops = torch.from_numpy(np.stack([np.asarray(image) for image in delivered]))
    batch = made(VALIDATION, RawBatch(crops=(crops,), index=torch.arange(5)))
    assert torch.equal(batch.views[0], IMAGENET_64(pixels))


def test_rotations_turn_counter_clockwise() -> None:
    settings = ViewsSettings(
        views=(View(crop=RandomResizedCrop(), steps=(Flip(),)),), size_px=8, expand=Rotations()
    )
    raw = raw_batch(settings)
    plain = made(settings.model_copy(update={"expand": None}), raw).views[0].numpy()
    found = made(settings, raw).views
    assert len(found) == 4
    for quarter, view in enumerate(found):
        np.testing.assert_array_equal(view.numpy(), np.rot90(plain, quarter, axes=(2, 3)))
        assert view.is_contiguous()


def test_patches_are_cut_from_their_cells() -> None:
    expand = Patches(cell_px=7, patch_px=4)
    settings = ViewsSettings(views=(View(crop=RandomResizedCrop()),), size_px=21, expand=expand)
    raw = raw_batch(settings, n=300)
    plain = made(settings.model_copy(update={"expand": None}), raw).views[0]
    found = made(settings, raw, seed=6, epoch=2).views
    offsets = patch_offsets(expand, raw.index.numpy(), ViewKey(6, 2, 0))
    reading = [(row, column) for row in range(3) for column in range(3)]
    order = [reading.pop(4), *reading]
    assert len(found) == 9
    for patch, (row, column) in enumerate(order):
        for image in (0, 1, 299):
            top = row * 7 + offsets[image, patch, 0]
            left = column * 7 + offsets[image, patch, 1]
            assert torch.equal(found[patch][image], plain[image, :, top : top + 4, left : left + 4])
    # every offset from 0 to 3 is as likely, in both directions, independently
    counts = np.bincount((offsets[..., 0] * 4 + offsets[..., 1]).ravel(), minlength=16)
    assert counts.size == 16
    np.testing.assert_allclose(counts / counts.sum(), 1 / 16, atol=5 * np.sqrt(1 / 16 / counts.sum()))


def test_depth_follows_the_flips_of_the_first_view() -> None:
    depth = torch.rand(12, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    raw = raw_batch(TWO, depth=depth)
    target = made(TWO, raw).target
    assert target is not None
    steps = TWO.views[0].steps
    flips = draw_params(steps, raw.index.numpy(), ViewKey(1, 0, 0), side_px=24).flips()
    assert 0 < flips.sum() < 12
    for image, flipped in enumerate(flips):
        assert torch.equal(target[image], depth[image].flip(-1) if flipped else depth[image])
    rotated = TWO.model_copy(update={"expand": Rotations()})
    assert made(rotated, raw).target is None


def test_crops_that_do_not_fit_the_settings_are_refused() -> None:
    raw = raw_batch(TWO)
    with pytest.raises(DataError, match="a batch has 1 crops, its views need 2"):
        made(TWO, RawBatch(crops=raw.crops[:1], index=raw.index))
    small = raw.crops[1][:, :20]
    with pytest.raises(
        DataError, match=r"crop 1 of a batch is uint8 \(12, 20, 24, 3\); needed: uint8 \(12, 24, 24"
    ):
        made(TWO, RawBatch(crops=(raw.crops[0], small), index=raw.index))
    with pytest.raises(DataError, match="crop 0 of a batch is float32"):
        made(TWO, RawBatch(crops=(raw.crops[0].float(), raw.crops[1]), index=raw.index))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_the_same_views() -> None:
    settings = TWO.model_copy(update={"size_px": 64})
    raw = raw_batch(settings, n=64, label=torch.arange(64))
    batch = ViewMaker(settings, seed=1, device=torch.device("cuda"))(raw, epoch=0)
    for view, expected in zip(batch.views, made(settings, raw).views, strict=True):
        assert view.device.type == "cuda"
        torch.testing.assert_close(view.cpu(), expected, rtol=0, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_making_views_does_not_wait_for_a_gpu() -> None:
    maker = ViewMaker(TWO, seed=1, device=torch.device("cuda"))
    raw = raw_batch(TWO, n=64, label=torch.arange(64), depth=torch.rand(64, 1, 24, 24))
    pinned = RawBatch(
        crops=tuple(crop.pin_memory() for crop in raw.crops),
        index=raw.index,
        label=raw.label,
        depth=None if raw.depth is None else raw.depth.pin_memory(),
    )
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        maker(pinned, epoch=0)
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_depth_is_standardised_where_the_settings_say_so() -> None:
    depth = torch.rand(12, 1, 24, 24, generator=torch.Generator().manual_seed(0)) * 0.3
    depth[5] = 0.25
    plain = ViewsSettings(views=(View(crop=RandomResizedCrop()),), size_px=24)
    scaled = plain.model_copy(update={"depth": "standardised"})
    raw = raw_batch(plain, depth=depth)
    kept, target = made(plain, raw).target, made(scaled, raw).target
    assert kept is not None and target is not None
    assert torch.equal(kept, depth)
    maps = depth.double().numpy()
    # Unbiased, as in the reference.
    deviations = maps.std((1, 2, 3), keepdims=True, ddof=1).clip(1 / 24)
    expected = (maps - maps.mean((1, 2, 3), keepdims=True)) / deviations
    np.testing.assert_allclose(target.numpy(), expected, atol=1e-5)
    assert target[5].abs().max() < 1e-5, "an even map becomes zeros"
