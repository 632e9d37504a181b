"""Small images with structure, in the layouts that prep reads."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mvkit.images.beton import has_ffcv, load_ffcv


def _scene(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A smooth coloured scene with some grain, so that JPEG and resizing have something to do."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / 40.0
    waves = [np.sin(rows * a + columns * b + c) for a, b, c in generator.uniform(-2, 2, (3, 3))]
    grain = generator.normal(0, 8, (height, width, 3))
    return np.clip(128 + 90 * np.stack(waves, -1) + grain, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def ffcv() -> Callable[[str], Any]:
    """Loads a module of FFCV; skips where it is not installed."""
    if not has_ffcv():
        pytest.skip("FFCV is not installed: python scripts/install_ffcv.py")
    return load_ffcv


@pytest.fixture
def generator() -> np.random.Generator:
    """Seeded random numbers."""
    return np.random.default_rng(0)


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``train/<class>/*.png`` and ``val/<class>/*.png`` of odd sizes; returns the folder."""

    def make(n_train: int = 6, n_val: int = 2, suffix: str = "png", name: str = "images") -> Path:
        root = tmp_path / name
        for split, count in (("train", n_train), ("val", n_val)):
            for number in range(count):
                folder = root / split / f"class_{number % 2}"
                folder.mkdir(parents=True, exist_ok=True)
                scene = _scene(
                    70 + 7 * number % 31, 90 + 5 * number % 23, seed=number + 100 * (split == "val")
                )
                Image.fromarray(scene).save(folder / f"{number:03d}.{suffix}")
        return root

    return make


@pytest.fixture
def make_pairs(tmp_path: Path) -> Callable[..., Path]:
    """Writes PBRNet's layout with depth maps of the given numpy type."""

    def make(n_images: int = 4, kind: str = "uint8") -> Path:
        root = tmp_path / "pairs"
        for name in ("train/data", "train_depth/data"):
            (root / name).mkdir(parents=True)
        greatest = np.iinfo(kind).max
        for number in range(n_images):
            height, width = 60 + 3 * number, 80
            Image.fromarray(_scene(height, width, number)).save(root / f"train/data/{number}.png")
            ramp = np.linspace(0, greatest, height * width).reshape(height, width).astype(kind)
            Image.fromarray(ramp).save(root / f"train_depth/data/{number}.png")
        return root

    return make


@pytest.fixture
def make_cifar(tmp_path: Path) -> Callable[..., tuple[Path, NDArray[np.uint8]]]:
    """Writes CIFAR-10's batches with a few images each; returns the folder and data_batch_1's rows."""

    def make(protocol: int = 2, n_images: int = 5) -> tuple[Path, NDArray[np.uint8]]:
        root = tmp_path / "cifar"
        root.mkdir(exist_ok=True)
        generator = np.random.default_rng(0)
        first = np.empty(0, np.uint8)
        for name in ("test_batch", *(f"data_batch_{number}" for number in range(5, 0, -1))):
            first = generator.integers(0, 256, (n_images, 3072)).astype(np.uint8)
            document = {b"data": first, b"labels": [number % 10 for number in range(n_images)]}
            (root / name).write_bytes(pickle.dumps(document, protocol))
        return root, first

    return make
