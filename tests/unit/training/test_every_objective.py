"""Every objective learns: the loss falls over real steps of the real loop on a small set of images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from PIL import Image

from mvkit.objectives.registry import OBJECTIVES
from mvkit.pipeline.train import TrainRequest, run_training
from mvkit.recipes import load_recipe, packaged_recipes
from mvkit.training.recipe import TrainRecipe

#: Every step sees all images: nothing but learning moves the loss, and the gentle random crops.
N_IMAGES = 8
N_STEPS = 20
#: Smaller networks first: the recipe of an objective is the first of these that there is.
NETWORKS = ("single_stream", "resnet18", "alexnet", "neural")
#: Objectives of larger networks' recipes, on the smallest one here.
ON_THE_SMALLEST = ("barlow_twins", "vicreg", "relative_location")
#: Heads, banks and queues that fit a few images; what an objective has of these is set.
SMALL = {
    "hidden": 64,
    "width": 32,
    "widths": [64, 64],
    "prediction_hidden": 16,
    # One batch of keys: a longer queue would go on changing from random rows to the images' own keys.
    "queue": N_IMAGES,
    "momentum": 0.9,
    "noise_samples": 16,
}
#: The published temperature is for a bank of a million: with few entries the noise term outweighs the rest.
#: Of 118 images 7 are trained on, which are one batch.
RECORDINGS = (
    "data.neural.dataset=simulated",
    "data.neural.areas=[VISp]",
    "data.neural.train_fraction=0.06",
)
OF_ITS_OWN = {"instance_recognition": ["objective.temperature=0.5"]}


@pytest.fixture(scope="module")
def recipes() -> Mapping[str, str]:
    """Name of a packaged recipe for every objective."""
    found: dict[str, str] = {}
    for network in NETWORKS:
        for name in packaged_recipes():
            if name.startswith(f"{network}_"):
                found.setdefault(load_recipe(TrainRecipe, name).objective.name, name)
    return found


@pytest.fixture(scope="module")
def labelled(coloured_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a few images in two classes."""
    root = tmp_path_factory.mktemp("labelled")
    for name in ("red", "green"):
        images = sorted((coloured_images / "train" / name).iterdir())[: N_IMAGES // 2]
        for image in images:
            target = root / "train" / name / image.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(image)
    return root


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of images with depths, in the layout of PBRNet: depth falls with the green."""
    root = tmp_path_factory.mktemp("pairs")
    draw = np.random.default_rng(1)
    for split, count in (("train", N_IMAGES), ("val", 4)):
        for kind in (split, f"{split}_depth"):
            (root / kind / "data").mkdir(parents=True)
        for number in range(count):
            pixels = np.kron(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
            Image.fromarray(pixels).save(root / split / "data" / f"{number}.png")
            Image.fromarray(255 - pixels[..., 1]).save(root / f"{split}_depth" / "data" / f"{number}.png")
    return root


def _gentle_crops(recipe: str) -> list[str]:
    """Keep random crops large, and do not enlarge them to 224 px in between, which takes long."""
    return [
        f"views.views[{number}].crop={{name: random_resized, scale: [0.8, 1.0], via_px: null}}"
        for number, view in enumerate(load_recipe(TrainRecipe, recipe).views.views)
        if view.crop.name == "random_resized"
    ]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_falls(
    name: str, recipes: Mapping[str, str], labelled: Path, pairs: Path, tmp_path: Path
) -> None:
    row = OBJECTIVES[name]
    heads = [f"objective.{key}={value}" for key, value in SMALL.items() if key in row.settings.model_fields]
    request = TrainRequest(
        recipes[name],
        overrides=(
            *heads,
            *OF_ITS_OWN.get(name, ()),
            *(["model.architecture=single_stream_encoder"] if name in ON_THE_SMALLEST else []),
            *_gentle_crops(recipes[name]),
            "optimiser={name: adamw, learning_rate: 2e-4}",
            "schedule={name: constant}",
            f"train.batch_size={N_IMAGES}",
            f"train.epochs={N_STEPS}",
            "checkpoint.every_epochs=null",
            "evaluate=[]",
            *(RECORDINGS if row.predicts_units else []),
        ),
        images=None if row.predicts_units else pairs if row.needs == "depth" else labelled,
        out=tmp_path / "run",
        device="cpu",
    )
    report = run_training(request)
    assert report.fit.step == N_STEPS
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["kind"] == "step"]
    assert len(losses) == N_STEPS
    # Not from the very first step: banks and queues begin with random rows, which are easily told apart.
    assert fmean(losses[-5:]) < fmean(losses[1:6])


def test_every_objective_has_a_recipe(recipes: Mapping[str, str]) -> None:
    assert set(recipes) == set(OBJECTIVES)
