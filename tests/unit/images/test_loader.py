"""Which images are opened, and what is said where there are none."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mvkit.errors import DataError, MissingPackageError
from mvkit.images import loader as loading
from mvkit.images.crops import crop_boxes
from mvkit.images.loader import open_images
from mvkit.images.settings import CentreCrop, RandomResizedCrop

WHOLE = CentreCrop(resize_px=None, crop_px=32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_class_folders(tmp_path: Path, rng: np.random.Generator) -> None:
    for split, name in (("train", "cat/1"), ("train", "ant/2"), ("train", "ant/1"), ("val", "cat/7")):
        _save(tmp_path / split / f"{name}.png", rng.integers(0, 256, (40, 50, 3), np.uint8))
    train, val = open_images(tmp_path, "train"), open_images(tmp_path, "val")
    assert (train.kind, train.n_images, train.classes, train.has_depth) == (
        "folder",
        3,
        ("ant", "cat"),
        False,
    )
    assert str(tmp_path) in train.description
    assert train.digest != val.digest
    with val.batches([np.array([0])], [(WHOLE, 32)], seed=0, epoch=0, workers=0) as batches:
        batch = next(batches)
    assert batch.label is not None
    assert batch.label.tolist() == [1]
    pixels = np.asarray(Image.open(tmp_path / "val/cat/7.png"))
    np.testing.assert_array_equal(batch.crops[0][0].numpy(), pixels[4:36, 9:41])


def test_images_without_classes(tmp_path: Path, rng: np.random.Generator) -> None:
    _save(tmp_path / "a.png", rng.integers(0, 256, (40, 50, 3), np.uint8))
    source = open_images(tmp_path, "train")
    assert source.classes is None
    with source.batches([np.array([0, 0])], [(WHOLE, 32)], seed=0, epoch=0, workers=0) as batches:
        assert next(batches).label is None
    with pytest.raises(DataError, match="no images for 'val'"):
        open_images(tmp_path, "val")


def test_cifar10(tmp_path: Path, rng: np.random.Generator) -> None:
    planes = {}
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        planes[name] = rng.integers(0, 256, (3, 3, 32, 32), np.uint8)
        content = {b"data": planes[name].reshape(3, -1), b"labels": [4, 0, 9]}
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol=2))
    source = open_images(tmp_path, "train")
    assert source.n_images == 15
    assert source.classes is not None
    with source.batches([np.array([4, 14])], [(WHOLE, 32)], seed=0, epoch=0, workers=1) as batches:
        batch = next(batches)
    assert batch.label is not None
    assert batch.label.tolist() == [0, 9]
    for row, (name, place) in enumerate((("data_batch_2", 1), ("data_batch_5", 2))):
        expected = planes[name][place].transpose(1, 2, 0)
        np.testing.assert_array_equal(batch.crops[0][row].numpy(), expected)


@pytest.mark.parametrize(("dtype", "greatest"), [(np.uint8, 255), (np.uint16, 65535)])
def test_depth_is_cropped_as_its_image(
    tmp_path: Path, rng: np.random.Generator, dtype: type[np.integer], greatest: int
) -> None:
    red = rng.integers(0, 256, (60, 80), np.uint8)
    _save(tmp_path / "train/data/1.png", np.stack([red] * 3, axis=2))
    _save(tmp_path / "train_depth/data/1.png", (red.astype(np.int64) * (greatest // 255)).astype(dtype))
    source = open_images(tmp_path, "train")
    assert source.has_depth
    crops = [(RandomResizedCrop(via_px=None), 24), (RandomResizedCrop(), 16)]
    with source.batches([np.array([0])], crops, seed=0, epoch=1, workers=1) as batches:
        batch = next(batches)
    assert batch.depth is not None
    assert batch.depth.shape == (1, 1, 24, 24)
    # The same crop; the value of the nearest pixel, as in the reference.
    sizes = (np.array([60]), np.array([80]))
    ((top, left, height, width),) = crop_boxes(crops[0][0], 0, 1, np.array([0]), 0, *sizes).tolist()
    rows = top + ((np.arange(24) + 0.5) * height / 24).astype(int)
    columns = left + ((np.arange(24) + 0.5) * width / 24).astype(int)
    np.testing.assert_allclose(batch.depth[0, 0] * 255, red[np.ix_(rows, columns)], atol=1e-4)


def test_an_image_and_a_depth_of_other_size(tmp_path: Path, rng: np.random.Generator) -> None:
    _save(tmp_path / "train/data/1.png", rng.integers(0, 256, (60, 80, 3), np.uint8))
    _save(tmp_path / "train_depth/data/1.png", rng.integers(0, 256, (60, 81), np.uint8))
    source = open_images(tmp_path, "train")
    with (
        source.batches([np.array([0])], [(WHOLE, 32)], seed=0, epoch=0, workers=1) as batches,
        pytest.raises(DataError, match=r"train/data/1\.png: the image has 80 x 60 px, its depth 81 x 60 px"),
    ):
        next(batches)


def test_page_locked_memory_is_used_where_it_is_asked_for(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(tmp_path / "train/data/1.png", rng.integers(0, 256, (60, 80, 3), np.uint8))
    _save(tmp_path / "train_depth/data/1.png", rng.integers(0, 256, (60, 80), np.uint8))
    source = open_images(tmp_path, "train")
    empty, asked = torch.empty, []

    def recorded(*shape: Any, pin_memory: bool, **options: Any) -> torch.Tensor:
        asked.append(pin_memory)
        return empty(*shape, **options)  # this machine may have no device to lock pages for

    monkeypatch.setattr(torch, "empty", recorded)
    plan, crops = [np.array([0])], [(WHOLE, 32), (WHOLE, 16)]
    for pin_memory in (False, True):
        with source.batches(plan, crops, seed=0, epoch=0, workers=0, pin_memory=pin_memory) as batches:
            batch = next(batches)
        # Two crops and the depth.
        assert asked == [pin_memory] * 3
        assert batch.crops[1].shape == (1, 16, 16, 3)
        asked.clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_for_a_gpu_are_page_locked(tmp_path: Path, rng: np.random.Generator) -> None:
    _save(tmp_path / "a.png", rng.integers(0, 256, (40, 50, 3), np.uint8))
    source = open_images(tmp_path, "train")
    with source.batches(
        [np.array([0])], [(WHOLE, 32)], seed=0, epoch=0, workers=1, pin_memory=True
    ) as batches:
        assert next(batches).crops[0].is_pinned()


def test_nothing_there_names_the_command(tmp_path: Path) -> None:
    place = tmp_path / "imagenet_64"
    command = f"mvkit prep imagenet_64 --images DIR --out {place}"
    for make in (lambda: None, place.mkdir, (place / "val.beton").touch):
        make()
        with pytest.raises(DataError, match="no images") as caught:
            open_images(place, "train")
        assert command in str(caught.value) or "no class folders" in str(caught.value)


def test_a_beton_without_its_description_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.beton").write_bytes(b"\2\0" + b"x" * 5000)
    with pytest.raises(DataError, match=r"train\.json is missing"):
        open_images(tmp_path, "train")


def test_without_ffcv_files_are_read_instead(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(path: Path) -> None:
        raise MissingPackageError("FFCV is not installed")

    monkeypatch.setattr(loading, "BetonSource", missing)
    (tmp_path / "train.beton").touch()
    with pytest.raises(MissingPackageError):
        open_images(tmp_path, "train")
    _save(tmp_path / "train" / "a.png", rng.integers(0, 256, (40, 50, 3), np.uint8))
    assert open_images(tmp_path, "train").kind == "folder"


def test_names_without_files_are_refused_when_images_are_opened(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    for name in ("train/a/0.png", "train/b/0.png"):
        _save(tmp_path / name, rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    os.mkfifo(tmp_path / "train/a/pipe.png")
    (tmp_path / "train/b/gone.png").symlink_to("nowhere.png")
    with pytest.raises(DataError) as error:
        open_images(tmp_path, "train")
    assert "2 of 4 images of train are named but not there" in str(error.value)
    assert "train/a/pipe.png: a pipe, not a file" in str(error.value)
    assert "train/b/gone.png: a link to nothing (nowhere.png)" in str(error.value)
    (tmp_path / "val.beton").symlink_to("/unmounted/val.beton")
    with pytest.raises(DataError, match=r"val\.beton: a link to nothing"):
        open_images(tmp_path, "val")


def test_names_that_are_no_text(tmp_path: Path, rng: np.random.Generator) -> None:
    root = tmp_path / os.fsdecode(b"im\xe9")
    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    _save(root / os.fsdecode(b"train/\xe9a/caf\xe9.png"), pixels)
    source = open_images(root, "train")
    assert source.classes == (r"\xe9a",)
    assert source.description.endswith(r"im\xe9: 1 train images (files, folder)")
    with source.batches([np.array([0])], [(WHOLE, 32)], seed=0, epoch=0, workers=0) as batches:
        np.testing.assert_array_equal(next(batches).crops[0][0], pixels)
