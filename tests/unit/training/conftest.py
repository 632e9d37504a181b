"""Fixtures of training tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def small() -> ModuleType:
    """Small networks and every objective on them: the script that also runs as several processes."""
    path = Path(__file__).parent / "steps_of_every_objective.py"
    spec = importlib.util.spec_from_file_location("mvkit_steps_of_every_objective", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def coloured_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of images in three classes that differ in colour: 75 to train on, 12 to validate on."""
    root = tmp_path_factory.mktemp("coloured")
    draw = np.random.default_rng(0)
    for split, count in (("train", 25), ("val", 4)):
        for number, name in enumerate(("red", "green", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for image in range(count):
                pixels = draw.integers(0, 150, (6, 8, 3), dtype=np.uint8)
                pixels[..., number] = 220
                Image.fromarray(pixels).resize((80, 72)).save(folder / f"{image:02d}.png")
    return root
