"""Batches from image files: the published crops, in the order of the plan, whatever the workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from mvkit.errors import DataError, UsageError
from mvkit.images.crops import crop_boxes, crop_image
from mvkit.images.loader import ImageSource, open_images
from mvkit.images.settings import CentreCrop, Crop, RandomCrop, RandomResizedCrop, RawBatch
from mvkit.models.preprocessing import IMAGENET_64

SIZES = [(90, 70), (64, 64), (70, 120), (300, 260), (256, 256), (320, 240), (500, 375)]
TRAIN = RandomResizedCrop(scale=(0.2, 1.0))
BILINEAR = Image.Resampling.BILINEAR


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of many sizes in two classes, as JPEG, PNG and grey PNG."""
    place = tmp_path_factory.mktemp("images")
    photograph = Image.fromarray(load_sample_image("flower.jpg"))
    for number, size in enumerate(SIZES):
        path = place / "train" / f"class_{number // 4}" / f"{number}.{'jpg' if number % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = photograph.resize(size, BILINEAR).rotate(10 * number)
        (image.convert("L") if number == 2 else image).save(path)
    return place


@pytest.fixture(scope="module")
def paths(place: Path) -> list[Path]:
    return sorted(place.glob("train/*/*"), key=lambda path: int(path.stem))


@pytest.fixture(scope="module")
def source(place: Path) -> ImageSource:
    return open_images(place, "train")


def _equal(one: RawBatch, other: RawBatch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.crops, other.crops, strict=True))


def _assert_near(view: np.ndarray, expected: np.ndarray) -> None:
    """One pass in float32 against PIL's two, each rounded to 8 bits: half a level from each rounding."""
    difference = np.abs(view.astype(np.int64) - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.3


@pytest.mark.parametrize(
    "crop", [TRAIN, RandomResizedCrop(via_px=None), RandomCrop(resize_px=60, crop_px=52, pad_px=6)]
)
def test_random_crops_are_within_two_grey_levels_of_pils(
    source: ImageSource, paths: list[Path], crop: Crop
) -> None:
    index = np.arange(len(SIZES))
    for epoch in range(4):
        with source.batches([index], [(crop, 64)], seed=9, epoch=epoch, workers=0) as batches:
            (batch,) = batches
        for number, path in enumerate(paths):
            image = Image.open(path).convert("RGB")
            size = np.array([[image.height], [image.width]])
            box = tuple(crop_boxes(crop, 9, epoch, index[number : number + 1], 0, *size)[0].tolist())
            expected = np.asarray(crop_image(image, crop, box, 64))
            _assert_near(batch.crops[0][number].numpy(), expected)


def test_crops_are_the_published_pipelines(source: ImageSource, paths: list[Path]) -> None:
    index = np.array([3, 0, 6, 2])
    with source.batches([index], [(TRAIN, 64), (TRAIN, 48)], seed=5, epoch=2, workers=1) as batches:
        (batch,) = batches
    for view, side_px in enumerate((64, 48)):
        for row, number in enumerate(index):
            image = Image.open(paths[number]).convert("RGB")
            size = np.array([[image.height], [image.width]])
            top, left, height, width = crop_boxes(TRAIN, 5, 2, np.array([number]), view, *size)[0].tolist()
            box = image.crop((left, top, left + width, top + height)).resize((224, 224), BILINEAR)
            expected = np.asarray(box.resize((side_px, side_px), BILINEAR))
            _assert_near(batch.crops[view][row].numpy(), expected)
    assert batch.index.tolist() == index.tolist()
    assert batch.label is not None
    assert batch.label.tolist() == [0, 0, 1, 0]
    assert batch.depth is None


def test_validation_views_are_the_models_preprocessing(source: ImageSource, paths: list[Path]) -> None:
    """Compared as network input: the pixels behind equal normalised values are equal."""
    index = np.arange(len(SIZES))
    with source.batches([index], [(CentreCrop(), 64)], seed=0, epoch=0, workers=2) as batches:
        (batch,) = batches
    mean = torch.tensor(IMAGENET_64.mean).view(3, 1, 1)
    std = torch.tensor(IMAGENET_64.std).view(3, 1, 1)
    for row, path in enumerate(paths):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        (expected,) = IMAGENET_64(pixels[None])
        view = batch.crops[0][row].permute(2, 0, 1).contiguous().to(torch.float32).div_(255)
        assert torch.equal(view.sub_(mean).div_(std), expected)


def test_a_padded_crop_is_black_outside(source: ImageSource, paths: list[Path]) -> None:
    crop = RandomCrop(crop_px=64, pad_px=8)
    with source.batches([np.array([1])], [(crop, 64)], seed=1, epoch=0, workers=0) as batches:
        (batch,) = batches
    sizes = np.array([[64], [64]])
    top, left = crop_boxes(crop, 1, 0, np.array([1]), 0, *sizes)[0, :2].tolist()
    padded = np.pad(np.asarray(Image.open(paths[1]).convert("RGB")), ((8, 8), (8, 8), (0, 0)))
    np.testing.assert_array_equal(batch.crops[0][0].numpy(), padded[8 + top : 72 + top, 8 + left : 72 + left])


def test_batches_do_not_depend_on_workers_or_batch_size(source: ImageSource) -> None:
    order = np.array([4, 1, 0, 5, 2, 3, 6, 1])
    crops = [(TRAIN, 64), (TRAIN, 64)]
    with source.batches([order], crops, seed=1, epoch=3, workers=0) as batches:
        (whole,) = batches
    assert not torch.equal(whole.crops[0], whole.crops[1])
    for workers, sizes in ((1, 3), (2, 1), (2, 5)):
        plan = [order[first : first + sizes] for first in range(0, len(order), sizes)]
        with source.batches(plan, crops, seed=1, epoch=3, workers=workers) as batches:
            parts = list(batches)
        joined = RawBatch(
            crops=tuple(torch.cat([part.crops[view] for part in parts]) for view in range(2)),
            index=torch.cat([part.index for part in parts]),
        )
        assert _equal(joined, whole)
        assert joined.index.tolist() == order.tolist()


def test_the_rest_of_an_epoch_gives_the_rest_of_its_batches(source: ImageSource) -> None:
    plan = [np.array([0, 3]), np.array([5, 1]), np.array([2])]
    with source.batches(plan, [(TRAIN, 32)], seed=1, epoch=0, workers=2) as batches:
        unbroken = list(batches)
    with source.batches(plan[1:], [(TRAIN, 32)], seed=1, epoch=0, workers=2) as batches:
        resumed = list(batches)
    assert all(_equal(*pair) for pair in zip(unbroken[1:], resumed, strict=True))


def test_epochs_and_seeds_crop_differently(source: ImageSource) -> None:
    def crop(seed: int, epoch: int) -> torch.Tensor:
        plan = [np.array([6])]
        with source.batches(plan, [(TRAIN, 32)], seed=seed, epoch=epoch, workers=0) as batches:
            return next(batches).crops[0]

    assert torch.equal(crop(1, 1), crop(1, 1))
    assert not torch.equal(crop(1, 1), crop(1, 2))
    assert not torch.equal(crop(1, 1), crop(2, 1))


def test_an_unreadable_file_is_named(paths: list[Path], tmp_path: Path) -> None:
    content = paths[1].read_bytes()
    (tmp_path / "a.jpg").write_bytes(content)
    (tmp_path / "b.jpg").write_bytes(content[: len(content) // 2])
    source = open_images(tmp_path, "train")
    plan = [np.array([0]), np.array([1])]
    with source.batches(plan, [(TRAIN, 32)], seed=0, epoch=0, workers=2) as batches:
        assert next(batches).label is None
        with pytest.raises(DataError, match=r"b\.jpg: cannot be read as an image"):
            next(batches)


def test_what_is_asked_for_must_exist(source: ImageSource) -> None:
    with pytest.raises(UsageError, match="images 0 to 7; there are 7"):
        source.batches([np.array([0, 7])], [(TRAIN, 32)], seed=0, epoch=0, workers=0)
    with pytest.raises(UsageError, match="shape"):
        source.batches([np.array([], np.int64)], [(TRAIN, 32)], seed=0, epoch=0, workers=0)
    with pytest.raises(UsageError, match="no crops"):
        source.batches([np.array([0])], [], seed=0, epoch=0, workers=0)
