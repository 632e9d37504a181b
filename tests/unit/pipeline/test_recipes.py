"""Recipes of every kind: opened, shown, copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvkit.errors import RecipeError, UsageError
from mvkit.images.prep import PrepSettings
from mvkit.pipeline.recipes import copy_recipe, open_recipe
from mvkit.pipeline.request import ScoreRecipe
from mvkit.recipes import load_recipe, packaged_recipes
from mvkit.training.recipe import TrainRecipe

MODELS = {"training": TrainRecipe, "scoring": ScoreRecipe, "prep": PrepSettings}


@pytest.mark.parametrize(
    "name", ["demo", "dual_stream_simclr", "shi_mousenet_ir", "resnet18_relative_location"]
)
def test_the_text_of_a_training_recipe_is_the_recipe(name: str, tmp_path: Path) -> None:
    _check_text(name, "training", tmp_path)


@pytest.mark.parametrize("name", [name for name in packaged_recipes() if "/" in name])
def test_the_text_of_other_recipes_is_the_recipe(name: str, tmp_path: Path) -> None:
    _check_text(name, "prep" if name.startswith("prep/") else "scoring", tmp_path)


def _check_text(name: str, kind: str, folder: Path) -> None:
    recipe = open_recipe(name)
    assert recipe.kind == kind
    for locations in (True, False):
        path = folder / f"{recipe.path.stem}.yaml"
        path.write_text(recipe.text(locations=locations) + "\n", encoding="utf-8")
        assert load_recipe(MODELS[kind], str(path)) == load_recipe(MODELS[kind], name)


def test_each_value_has_the_file_and_line_that_gave_it(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("base: demo\ntrain:\n  epochs: 3\n", encoding="utf-8")
    recipe = open_recipe(str(own), ["train.seed=7"])
    lines = recipe.text(locations=True).splitlines()
    places = {line.split(":")[0].strip(): line.rpartition("# ")[2] for line in lines if "# " in line}
    assert places["epochs"] == f"{own}:3"
    assert places["seed"] == "--set train.seed=7"
    assert places["batch_size"].startswith("recipes/demo.yaml:")
    assert places["sync_norm"] == "default" or places["sync_norm"].startswith("recipes/base/")
    assert lines[0] == f"# {own}: a training recipe; mvkit train {own}"


def test_a_selection_shows_only_what_it_gives() -> None:
    document = open_recipe("honest", ["selection.min_reliability=.3"]).document
    assert document["selection"] == {"preset": "code", "min_reliability": 0.3}
    assert document["cka_debiased"] is True


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("n_splits: 2\n", "scoring"),
        ("base: score/honest\n", "scoring"),
        ("base: demo\n", "training"),
        ("base: prep/demo\n", "prep"),
    ],
)
def test_the_kind_of_a_file_is_that_of_its_keys(text: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
    assert open_recipe(str(tmp_path / "own.yaml")).kind == kind


@pytest.mark.parametrize("name", ["demo", "score/honest", "prep/imagenet_64"])
@pytest.mark.parametrize("full", [True, False])
def test_a_copy_is_the_same_recipe(
    name: str, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target, recipe = copy_recipe(name, full=full)
    assert target == Path(f"{recipe.path.stem}.yaml")
    copied = open_recipe(str(target))
    assert copied.kind == recipe.kind
    assert copied.document == recipe.document
    assert ("base:" in target.read_text(encoding="utf-8")) is not full
    with pytest.raises(UsageError, match=r"exists, and is not replaced"):
        copy_recipe(name, full=full)


def test_a_copy_of_a_file_finds_its_base_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("base: score/quick\nn_splits: 3\n", encoding="utf-8")
    target, _ = copy_recipe(str(tmp_path / "own.yaml"), tmp_path / "inner" / "next.yaml")
    assert open_recipe(str(target)).document["n_splits"] == 3


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (
            "base: demo\ntrain:\n  epochs: none\noptimiser: {name: sdg}\n",
            [
                "{path}:3: train.epochs: give a whole number, 1 or more, got 'none'",
                "{path}:4: optimiser.name: unknown name 'sdg'; did you mean 'sgd'?; valid: sgd, adam,",
            ],
        ),
        (
            "short_side_px: 0\nformat: png\n",
            ["{path}:1: short_side_px: give", "{path}:2: format: give raw or jpeg"],
        ),
        ("mapping: rsa\nn_split: 2\n", ["{path}:2: n_split: unknown key; did you mean 'n_splits'?"]),
    ],
)
def test_every_error_has_its_file_and_line(text: str, problems: list[str], tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        open_recipe(str(path))
    for problem in problems:
        assert problem.format(path=path) in str(caught.value)
