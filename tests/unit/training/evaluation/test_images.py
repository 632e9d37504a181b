"""Validation images as the models' own preprocessing gives them, shared among processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mvkit.errors import DataError
from mvkit.images.loader import open_images
from mvkit.images.settings import VALIDATION, RandomResizedCrop, View, ViewsSettings
from mvkit.models.preprocessing import IMAGENET_64
from mvkit.training.evaluation import RunImages, shared_plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five training and three validation images in two classes."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 3)):
        for number in range(count):
            place = tmp_path / split / ("even" if number % 2 == 0 else "odd")
            place.mkdir(parents=True, exist_ok=True)
            pixels = noise.integers(0, 256, (70 + number, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path


@pytest.fixture
def run_images(folder: Path) -> RunImages:
    """Images of that folder, two at a time."""
    return RunImages(
        train=open_images(folder, "train"),
        val=open_images(folder, "val"),
        validation_views=VALIDATION,
        batch_size=2,
        seed=0,
        workers=0,
        device=torch.device("cpu"),
    )


def test_validation_views_are_the_models_preprocessing(run_images: RunImages, folder: Path):
    with run_images.batches("train", np.arange(5)) as batches:
        got = list(batches)
    paths = sorted((folder / "train").rglob("*.png"))
    expected = torch.cat([IMAGENET_64(np.asarray(Image.open(path))[None]) for path in paths])
    assert torch.equal(torch.cat([batch.views[0] for batch in got]), expected)
    assert torch.cat([batch.label for batch in got]).tolist() == [0, 0, 0, 1, 1]
    assert [len(batch.index) for batch in got] == [2, 2, 1]
    assert (run_images.n_classes, run_images.n_images("train"), run_images.n_images("val")) == (2, 5, 3)


def test_batches_are_page_locked_for_a_gpu(run_images: RunImages):
    assert not run_images.pins_memory
    assert replace(run_images, device=torch.device("cuda")).pins_memory


def test_other_views_stay_the_same(run_images: RunImages):
    views = ViewsSettings(views=(View(crop=RandomResizedCrop(), copies=2),))
    seen = []
    for _ in range(2):
        with run_images.batches("val", np.arange(3), views=views) as batches:
            seen.append([batch.views for batch in batches])
    one, two = seen
    assert all(torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))
    assert len(one[0]) == 2
    assert not torch.equal(one[0][0], one[0][1])


@pytest.mark.parametrize("n_images", [1, 7, 16, 33])
@pytest.mark.parametrize("n_processes", [1, 2, 3])
def test_parts_of_all_processes_make_up_the_batches_of_one(n_images: int, n_processes: int):
    indices = np.arange(100, 100 + n_images)
    if n_images < n_processes:
        with pytest.raises(DataError, match="too few"):
            shared_plan(indices, 8, n_processes=n_processes, process=0)
        return
    alone = shared_plan(indices, 8, n_processes=1, process=0)
    np.testing.assert_array_equal(np.concatenate(alone), indices)
    assert max(map(len, alone)) <= 8
    parts = [shared_plan(indices, 8, n_processes=n_processes, process=p) for p in range(n_processes)]
    for batch, *shares in zip(alone, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate(shares), batch)
        assert min(map(len, shares)) > 0


def test_nothing_to_evaluate_on_is_no_batch_at_all():
    assert shared_plan(np.arange(0), 8, n_processes=2, process=1) == []
