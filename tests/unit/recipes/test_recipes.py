"""Every training recipe: it is valid, its network exists, and it runs a step."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mvkit.images.settings import VALIDATION
from mvkit.images.views import ViewMaker
from mvkit.models.loading import build
from mvkit.models.registry import find_model, has_readout
from mvkit.objectives.registry import row_of
from mvkit.recipes import packaged_recipes
from mvkit.training.evaluation import build_evaluators
from mvkit.training.optim import build_optimiser
from mvkit.training.setup import build_networks
from mvkit.training.step import TrainStep

RECIPES = sorted(name for name in packaged_recipes() if "/" not in name)
#: Endings of variants, which take the steps of other recipes on networks of the same kinds, and of every kind
#: a small one that is always run.
VARIANTS = ("_cifar10", "_ir_views", "er_linear_readout", "depth_linear_readout", "without_bn_ir", "_from_ir")
CUT = ("two", "three", "four", "five", "six")
QUICK = ("alexnet_two_supervised", "single_stream_cifar10", "single_stream_depth_linear_readout")
ENDINGS = (*VARIANTS, *(f"alexnet_{n}_supervised" for n in CUT))
STEPPED = [
    pytest.param(name, marks=pytest.mark.slow) if name.endswith(ENDINGS) and name not in QUICK else name
    for name in RECIPES
]
N_IMAGES = 3
#: Values of every parameter that are looked at: all 138 million of VGG16 would take seconds to copy.
N_VALUES = 256
#: Heads, queues and banks that a laptop has room for.
SMALLER = {
    "instance_recognition": ("noise_samples=16",),
    "simclr": ("hidden=32",),
    "simsiam": ("hidden=32", "width=32", "prediction_hidden=16"),
    "mocov2": ("hidden=32", "queue=64"),
    "barlow_twins": ("widths=[32, 32]",),
    "vicreg": ("widths=[32, 32]",),
    "relative_location": ("hidden=32",),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_called_like_its_file_and_complete(name, recipe_named):
    recipe = recipe_named(name)
    assert recipe.name == name
    assert recipe.source and recipe.notes
    first_line, second_line = packaged_recipes()[name].read_text(encoding="utf-8").splitlines()[:2]
    assert first_line.endswith(f"mvkit train {name}")
    assert second_line.startswith("base: ")


@pytest.mark.parametrize("name", RECIPES)
def test_views_serve_the_objective_and_validation_is_the_models_preprocessing(name, recipe_named):
    recipe = recipe_named(name)
    # Small images are shown whole (test_published_settings), and so are the images of recordings.
    if recipe.data.images != "cifar10" and recipe.data.neural is None:
        assert recipe.validation.model_copy(update={"expand": None, "depth": "as_stored"}) == VALIDATION
    assert recipe.validation.depth == recipe.views.depth


@pytest.mark.parametrize("name", RECIPES)
def test_network_fits_the_objective(name, recipe_named):
    recipe = recipe_named(name)
    row = find_model(recipe.model.architecture)
    assert recipe.model.encoder is None or find_model(recipe.model.encoder)
    assert has_readout(row.architecture.blueprint) == (recipe.objective.name == "cross_entropy")
    with torch.device("meta"):
        model = build(row.architecture.blueprint)
    layers = {getattr(recipe.objective, "layer", None), *(getattr(e, "layer", None) for e in recipe.evaluate)}
    assert layers - {None} <= set(model.tap_points())


@pytest.mark.parametrize("name", RECIPES)
def test_evaluations_fit_network_and_objective(name, recipe_named):
    recipe = recipe_named(name)
    encoder = torch.nn.Flatten() if recipe.objective.name != "linear_readout" else torch.nn.Identity()
    encoder.weight = torch.nn.Parameter(torch.zeros(1))
    images = SimpleNamespace(n_classes=2, n_images=lambda split: 8)
    found = build_evaluators(
        recipe,
        encoder=encoder,
        images=images,
        device=torch.device("cpu"),
        build_neural=lambda settings, given, network: SimpleNamespace(
            name=given, headline="score", higher_is_better=True
        ),
    )
    assert len(found) == len(recipe.evaluate) > 0


@pytest.mark.parametrize("name", STEPPED)
def test_one_step_on_the_cpu(name, recipe_named, raw_batch):
    kind = recipe_named(name).objective.name
    shrunk = [f"objective.{item}" for item in SMALLER.get(kind, ())]
    recipe = recipe_named(name, *shrunk, f"train.batch_size={N_IMAGES}")
    device = torch.device("cpu")
    # Random weights: those that were released are not on every machine.
    encoder, objective = build_networks(
        recipe, n_images=64, n_classes=2, responses=np.eye(64, 3, dtype=np.float32), weights="random"
    )
    optimiser = build_optimiser(recipe.optimiser, (encoder, objective))
    trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    before = [_some_of(parameter) for parameter in trained]
    frozen = [_some_of(entry) for entry in encoder.state_dict().values()]
    views = ViewMaker(recipe.views, seed=recipe.train.seed, device=device)
    batch = views(raw_batch(recipe, N_IMAGES), epoch=0)

    loss = TrainStep(encoder, objective, optimiser, device=device).run(batch, step=0)

    assert loss.total.shape == ()
    assert np.isfinite(float(loss.total))
    after = [_some_of(parameter) for parameter in trained]
    assert all(bool(torch.isfinite(values).all()) for values in after)
    moved = sum(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert moved > len(trained) // 2
    if kind == "linear_readout":
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        kept = [_some_of(entry) for entry in encoder.state_dict().values()]
        assert all(torch.equal(old, new) for old, new in zip(frozen, kept, strict=True))
    assert row_of(recipe.objective).n_views == len(recipe.views.each())


def _some_of(entry: torch.Tensor) -> torch.Tensor:
    flat = entry.detach().flatten()
    return flat[:: max(1, len(flat) // N_VALUES)].clone()
