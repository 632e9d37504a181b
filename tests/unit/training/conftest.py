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


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make every architecture a network whose steps take milliseconds."""
    path = Path(__file__).parent / "runs_to_kill.py"
    spec = importlib.util.spec_from_file_location("mvkit_runs_to_kill", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("mvkit.training.setup.build_for_training", module.build_tiny)
    monkeypatch.setattr("mvkit.pipeline.train.is_model", lambda name: True)
    return module


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> str:
    """Path of a recipe that classifies small views: 75 images, 9 steps an epoch, 2 epochs."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        """
name: tiny
source: a test
model: {architecture: tiny}
views: {size_px: 16, views: [{crop: {name: centre, resize_px: 16, crop_px: 16}}]}
validation: {size_px: 16, views: [{crop: {name: centre, resize_px: 16, crop_px: 16}}]}
objective: {name: cross_entropy}
optimiser: {name: sgd, learning_rate: 0.01}
train: {epochs: 2, batch_size: 8}
evaluate: [{name: validation_loss}]
"""
    )
    return str(path)
