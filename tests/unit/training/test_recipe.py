"""Training recipes: what sections demand of each other, identity, and the written copy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from mvkit.errors import RecipeError
from mvkit.models.preprocessing import IMAGENET_64
from mvkit.recipes import load_recipe, packaged_recipes
from mvkit.training.checkpoint import write_recipe
from mvkit.training.recipe import Adam, StepSchedule, TrainRecipe, differences, science, science_digest
from mvkit.training.setup import network_preprocessing


def problems(name: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(TrainRecipe, name, overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        (
            "dual_stream_simclr",
            ["views.views[0].copies=1"],
            ["views.views: simclr needs 2 of an image, got 1 (copies counted)"],
        ),
        (
            "dual_stream_rotnet",
            ["views.expand=null", "validation.expand=null"],
            ["views.expand: rotnet needs 'rotations', got None"],
        ),
        (
            "dual_stream_ir",
            ["views.expand={name: rotations}"],
            ["views.expand: instance_recognition needs none, got 'rotations'"],
        ),
        (
            "dual_stream_ir",
            ["train.epochs=150"],
            [
                "schedule.milestones: must be below train.epochs (150), got [160]; "
                "for a trial run set train.max_steps"
            ],
        ),
        (
            "dual_stream_ir",
            ["schedule.milestones=[20, 10]", "train.epochs=30"],
            ["schedule.milestones: must ascend, got [20, 10]"],
        ),
        (
            "dual_stream_simclr",
            ["train.epochs=10", "evaluate=[]"],
            ["schedule.warmup_epochs: must be below train.epochs (10), got 10"],
        ),
        (
            "dual_stream_ir",
            ["views.size_px=128", "validation.size_px=64"],
            [
                "validation.size_px: is 64, but the network is trained on 128 px (views.size_px); "
                "it is scored at the size of its validation views, so both must be equal"
            ],
        ),
        (
            "resnet18_relative_location",
            ["validation.size_px=255"],
            [
                "validation.size_px: is 255, but the network is trained on 64 px (views.expand.patch_px); "
                "it is scored at the size of its validation views, so both must be equal"
            ],
        ),
        (
            "dual_stream_ir",
            ["validation.std=[0.5, 0.5, 0.5]"],
            [
                "validation.std: is [0.5, 0.5, 0.5], but views.std is [0.229, 0.224, 0.225]; "
                "both must be equal"
            ],
        ),
        (
            "dual_stream_ir",
            ["validation.views[0].steps=[{name: flip}]"],
            [
                "validation.views: must be one view, a centre crop with crop_px and without steps: "
                "it is the network's preprocessing"
            ],
        ),
        (
            "dual_stream_supervised",
            ["checkpoint.best_by=validation_los.top1"],
            [
                "checkpoint.best_by: 'validation_los.top1' is not measured; did you mean "
                "'validation_loss.top1'?; measured: validation_loss.top1, validation_loss.top5, "
                "validation_loss.loss"
            ],
        ),
        (
            "dual_stream_ir",
            ["optimiser.nesterov=true", "optimiser.momentum=0"],
            ["optimiser.nesterov: needs a momentum above 0"],
        ),
        (
            "dual_stream_simclr",
            ["evaluate=[{name: linear_probe}, {name: bank_neighbours}]"],
            ["evaluate[1].name: simclr has no memory bank; use feature_neighbours"],
        ),
        (
            "dual_stream_ir",
            ["evaluate=[{name: validation_loss}]"],
            [
                "evaluate[0].name: instance_recognition looks images up in the training set; "
                "use bank_neighbours"
            ],
        ),
        (
            "dual_stream_ir",
            ["optimiser.learning_rate=.inf"],
            ["give a finite number above 0, got inf"],
        ),
    ],
)
def test_contradictions(name: str, overrides: list[str], expected: list[str]) -> None:
    found = problems(name, *overrides)
    assert len(found) == len(expected)
    assert all(line.endswith(f": {text}") for line, text in zip(found, expected, strict=True)), found


def test_several_contradictions_at_once() -> None:
    found = problems("dual_stream_ir", "train.epochs=100", "views.views[0].copies=2")
    assert len(found) == 2


def test_the_digest_is_of_the_science() -> None:
    plain = load_recipe(TrainRecipe, "dual_stream_ir")
    renamed = load_recipe(TrainRecipe, "dual_stream_ir", ["name=x", "notes=y", "checkpoint.every_epochs=1"])
    longer = load_recipe(TrainRecipe, "dual_stream_ir", ["train.epochs=201"])
    assert science_digest(plain) == science_digest(renamed) != science_digest(longer)
    assert "notes" not in science(plain)


def test_differences_name_keys_and_both_values() -> None:
    before = load_recipe(TrainRecipe, "dual_stream_ir").model_dump(mode="json")
    now = load_recipe(
        TrainRecipe,
        "dual_stream_ir",
        ["train.epochs=201", "views.views[0].steps[0].probability=0.3", "evaluate=[]", "notes=new"],
    )
    assert differences(before, now) == [
        "views.views[0].steps[0].probability: 0.2 before, 0.3 now",
        "train.epochs: 200 before, 201 now",
        "evaluate: absent before, [] now",
        'evaluate[0].name: "bank_neighbours" before, absent now',
        "evaluate[0].every_epochs: 1 before, absent now",
    ]
    assert differences(before, load_recipe(TrainRecipe, "dual_stream_ir")) == []


@pytest.mark.parametrize("name", ["dual_stream_ir", "resnet18_relative_location", "alexnet_simclr"])
def test_the_written_recipe_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(TrainRecipe, name, ["optimiser.learning_rate=1e-7", "notes='no: 3e-2'"])
    write_recipe(tmp_path, recipe)
    assert load_recipe(TrainRecipe, str(tmp_path / "recipe.yaml")) == recipe


def test_validation_views_have_the_size_and_normalisation_of_training_unless_said(tmp_path: Path) -> None:
    changes = ["views.size_px=128", "views.mean=[0.5, 0.5, 0.5]"]
    recipe = load_recipe(TrainRecipe, "alexnet_ir", changes)
    assert (recipe.validation.size_px, recipe.validation.mean) == (128, (0.5, 0.5, 0.5))
    preprocess = network_preprocessing(recipe)
    assert preprocess == replace(IMAGENET_64, input_px=128, mean=(0.5, 0.5, 0.5))
    # The written recipe says it, and says the same again.
    write_recipe(tmp_path, recipe)
    assert load_recipe(TrainRecipe, str(tmp_path / "recipe.yaml"), []) == recipe
    # Of relative location the network sees patches.
    assert load_recipe(TrainRecipe, "resnet18_relative_location", []).validation.size_px == 64


def test_every_packaged_recipe_is_scored_with_the_published_preprocessing() -> None:
    for name in packaged_recipes():
        # A network trained on recordings sees their images whole.
        if "/" not in name and not name.endswith("_cifar10") and name != "neural_readout":
            assert network_preprocessing(load_recipe(TrainRecipe, name, [])) == IMAGENET_64


def test_networks_of_cifar10_see_scenes_as_in_the_references_validation() -> None:
    """SupervisedCIFAR10Trainer_64x64: Resize(64), ToTensor, Normalize, of square images."""
    preprocess = network_preprocessing(load_recipe(TrainRecipe, "single_stream_cifar10", []))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 90, 90, 3), dtype=np.uint8)
    reference = transforms.Compose(
        [
            transforms.Resize(64),
            transforms.ToTensor(),
            transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ]
    )
    expected = torch.stack([reference(Image.fromarray(picture)) for picture in pictures])
    assert torch.equal(preprocess(pictures), expected)


def test_a_users_recipe_over_a_packaged_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base: alexnet_ir\n"
        "optimiser: {name: adamw, learning_rate: 1e-4}\n"
        "schedule: {milestones: [10]}\n"
        "notes: {rate: found by trying, own: for a poster.}\n"
    )
    published, mine = load_recipe(TrainRecipe, "alexnet_ir"), load_recipe(TrainRecipe, str(path))
    assert mine.name == "mine"
    assert mine.model_dump(exclude={"name", "notes", "optimiser", "schedule"}) == published.model_dump(
        exclude={"name", "notes", "optimiser", "schedule"}
    )
    # Another optimiser: nothing is left of the base's momentum. The same schedule: the factor is.
    assert mine.optimiser == Adam(name="adamw", learning_rate=1e-4)
    assert mine.schedule == StepSchedule(milestones=(10,), factor=0.1)
    assert mine.notes.endswith("Rate: found by trying. Own: for a poster.")
    assert "Settings: configs/ir/alexnet_bn_ir.json, folder" in mine.notes
    assert "Chosen: 0.003" not in mine.notes


def test_a_network_of_ones_own_over_a_base(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: base/simclr.yaml\nmodel: {architecture: resnet18_encoder}\n")
    expected = load_recipe(TrainRecipe, "alexnet_simclr", ["model.architecture=resnet18_encoder"])
    assert science(load_recipe(TrainRecipe, str(path))) == science(expected)


def test_contradictions_name_the_base_that_has_the_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: alexnet_ir\ntrain: {epochs: 150}\n")
    lines = packaged_recipes()["alexnet_ir"].parent.joinpath("base/ir.yaml").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "milestones" in text)
    assert problems(str(path)) == [
        f"recipes/base/ir.yaml:{line}: schedule.milestones: must be below train.epochs (150), got [160]; "
        "for a trial run set train.max_steps"
    ]


@pytest.mark.parametrize(
    ("notes", "problem"),
    [
        ("{rate: 0.1}", "give a text, got {'rate': 0.1}"),
        ("[a]", "give a text, got ['a']"),
    ],
)
def test_notes_are_a_text_or_texts_by_topic(notes: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: demo\nnotes: {notes}\n")
    assert problems(str(path)) == [f"{path}:2: notes: {problem}"]


@pytest.mark.parametrize("name", ["..", "../x", "/x", ".hidden"])
def test_a_run_stays_in_its_folder(name: str) -> None:
    with pytest.raises(RecipeError, match=r"name=.*: give a word of letters"):
        load_recipe(TrainRecipe, "demo", overrides=[f"name={name}"])
