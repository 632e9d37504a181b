"""From recipes to evaluators, and what is refused before training starts."""

from __future__ import annotations

import pytest
import torch

from mvkit.errors import DataError, RecipeError, UsageError
from mvkit.training.evaluation import build_evaluators
from mvkit.training.recipe import TrainRecipe

TWO_VIEWS = {"views": [{"crop": {"name": "random_resized"}, "copies": 2}], "size_px": 2}
ONE_VIEW = {"views": [{"crop": {"name": "random_resized"}}], "size_px": 2}


def recipe(*evaluate: dict, objective: str = "cross_entropy", views: dict = ONE_VIEW) -> TrainRecipe:
    return TrainRecipe.model_validate(
        {
            "name": "x",
            "source": "test",
            "model": {"architecture": "dual_stream_encoder"},
            "views": views,
            "objective": {"name": objective},
            "optimiser": {"name": "sgd", "learning_rate": 0.1},
            "train": {"epochs": 1, "batch_size": 4},
            "evaluate": evaluate,
        }
    )


def build(of: TrainRecipe, encoder, images, **options):
    return build_evaluators(of, encoder=encoder, images=images, device=torch.device("cpu"), **options)


def test_every_kind_is_built_with_its_rhythm(encoder, images):
    kinds = ["bank_neighbours", "feature_neighbours", "linear_probe"]
    wanted = recipe(
        *({"name": kind, "every_epochs": n} for n, kind in enumerate(kinds, start=2)),
        objective="instance_recognition",
    )
    built = build(wanted, encoder, images)
    assert [evaluator.name for evaluator in built.evaluators] == kinds
    assert [evaluator.every_epochs for evaluator in built.evaluators] == [2, 3, 4]
    assert built.headline == "bank_neighbours.top1"
    assert built.higher_is_better
    loss = build(recipe({"name": "validation_loss"}), encoder, images)
    assert (loss.headline, loss.higher_is_better) == ("validation_loss.loss", False)


def test_two_of_a_kind_are_told_apart_by_their_layers(encoder, images):
    built = build(
        recipe({"name": "linear_probe", "layer": "norm"}, {"name": "linear_probe"}), encoder, images
    )
    assert [evaluator.name for evaluator in built.evaluators] == ["linear_probe[norm]", "linear_probe[final]"]
    assert [evaluator.classifier.in_features for evaluator in built.evaluators] == [12, 5]
    with pytest.raises(RecipeError, match=r"linear_probe\[final\]: listed more than once"):
        build(recipe({"name": "linear_probe"}, {"name": "linear_probe"}), encoder, images)


def test_the_loss_takes_the_views_that_the_objective_compares(encoder, images):
    rotated = {**ONE_VIEW, "expand": {"name": "rotations"}}
    recipes = [
        recipe({"name": "validation_loss"}),
        recipe({"name": "validation_loss"}, objective="simclr", views=TWO_VIEWS),
        recipe({"name": "validation_loss"}, objective="rotnet", views=rotated),
        recipe(
            {"name": "validation_loss", "views": {**rotated, "size_px": 48}},
            objective="rotnet",
            views=rotated,
        ),
    ]
    chosen = [build(of, encoder, images).evaluators[0]._views for of in recipes]
    simclr, rotnet = (one.views for one in recipes[1:3])
    assert chosen == [recipes[0].validation, simclr, rotnet, recipes[3].evaluate[0].views]


@pytest.mark.parametrize("kind", ["linear_probe", "feature_neighbours"])
def test_unknown_layers_are_refused(encoder, images, kind):
    with pytest.raises(UsageError, match="did you mean 'norm'"):
        build(recipe({"name": kind, "layer": "nrm"}), encoder, images)


def test_missing_validation_images_and_labels_are_refused(encoder, images):
    images.n_classes = None
    with pytest.raises(DataError, match="linear_probe needs labels"):
        build(recipe({"name": "linear_probe"}), encoder, images)
    build(recipe({"name": "validation_loss"}), encoder, images)
    images.views["val"] = images.views["val"][:0]
    with pytest.raises(DataError, match="validation_loss needs validation images"):
        build(recipe({"name": "validation_loss"}), encoder, images)


def test_neural_predictivity_is_built_by_the_function_given(encoder, images):
    built = []

    def neural(settings, name, network):
        assert network is encoder
        built.append((settings.dataset, name))
        return build(recipe({"name": "validation_loss"}), encoder, images).evaluators[0]

    two = recipe({"name": "neural_predictivity", "dataset": "simulated"}, {"name": "neural_predictivity"})
    build(two, encoder, images, build_neural=neural)
    assert built == [
        ("simulated", "neural_predictivity[simulated]"),
        ("neuropixels", "neural_predictivity[neuropixels]"),
    ]
    with pytest.raises(RecipeError, match="not available here"):
        build(two, encoder, images)
