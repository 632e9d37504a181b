"""Recipes against the reference's released configurations (training_settings.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mvkit.models.registry import find_model
from mvkit.recipes import packaged_recipes

STREAMS = ("single_stream", "dual_stream", "six_stream")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
MOUSENETS = ("shi_mousenet", "shi_mousenet_vispor5")

#: Rows of Table 2: networks and the objectives they were trained for.
TABLE_2 = (
    *(
        f"{net}_{objective}"
        for net in STREAMS
        for objective in ("supervised", "autoencoder", "depth", "rotnet", "ir", "simsiam", "mocov2", "simclr")
    ),
    *(
        f"alexnet_{objective}"
        for objective in ("supervised", "ir", "simclr", "simsiam", "mocov2", "barlow_twins", "vicreg")
    ),
    *(f"{net}_{objective}" for net in (*RESNETS, "vgg16", *MOUSENETS) for objective in ("supervised", "ir")),
    "resnet18_relative_location",
)
READOUTS = tuple(f"{net}_linear_readout" for net in (*STREAMS, "alexnet", "vgg16", *RESNETS, *MOUSENETS))
#: Recipes beside Table 2 -> the recipe whose optimiser, schedule and length they have; None: no other's.
VARIANTS = {
    **{
        f"alexnet_{depth}_supervised": "alexnet_supervised"
        for depth in ("two", "three", "four", "five", "six")
    },
    "alexnet_supervised_ir_views": "alexnet_supervised",
    "alexnet_bn_supervised_ir_views": "alexnet_supervised",
    "alexnet_without_bn_ir": "alexnet_ir",
    **{
        f"{net}_cifar10": f"{net}_supervised"
        for net in ("single_stream", "dual_stream", "alexnet", "resnet18")
    },
    **{f"{net}_cifar10": f"{net}_supervised" for net in MOUSENETS},
    # Not the lower rate of its run on ImageNet.
    "six_stream_cifar10": "dual_stream_supervised",
    **{
        f"{net}_{kind}_linear_readout": f"{net}_linear_readout"
        for net in STREAMS
        for kind in ("autoencoder", "depth")
    },
    "dual_stream_depth_from_ir": "dual_stream_depth",
}
OTHERS = ("demo", "neural_readout", *VARIANTS)
ENDINGS = (
    "supervised",
    "autoencoder",
    "depth",
    "rotnet",
    "ir",
    "simsiam",
    "mocov2",
    "simclr",
    "barlow_twins",
    "vicreg",
    "relative_location",
    "linear_readout",
)

#: The reference's released configurations, one row a recipe; says where every value comes from.
FACTS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "training_settings.json").read_text(encoding="utf-8")
)["rows"]

#: What the reference's trainers say beside the facts: optimiser, schedule, warm-up (epochs and ratio), and
#: when a cosine's rate is taken.
KINDS = {
    "mocov2": ("sgd", "cosine", 0, 0, "end"),
    "simclr": ("lars", "cosine", 10, 1e-4, "beginning"),
    "simsiam": ("sgd", "cosine", 0, 0, "end"),
    "barlow_twins": ("lars", "cosine", 10, 0, "beginning"),
    "vicreg": ("lars", "cosine", 10, 0, "beginning"),
    "relative_location": ("sgd", "step", 5, 0.1, None),
}
STEPS = ("sgd", "step", 0, 0, None)
#: Settings of runs whose configuration was not released, each with its source.
SGD = {"momentum": 0.9, "nesterov": False}
SUPERVISED = {"batch_size": 256, "epochs": 100, **SGD, "milestones": [30, 60, 90]}
READOUT = {**SUPERVISED, "learning_rate": 0.1, "weight_decay": 1e-9}
LARGE = {"batch_size": 2048, "epochs": 1000, **SGD, "weight_decay": 1e-6}
UNRELEASED: dict[str, dict[str, Any]] = {
    # As vgg16_supervised, the other network without batch norm.
    "alexnet_supervised": {**SUPERVISED, "learning_rate": 0.01, "weight_decay": 5e-4},
    # As resnet34_supervised and deeper ones.
    "resnet18_supervised": {**SUPERVISED, "learning_rate": 0.1, "weight_decay": 1e-4},
    # The reference's MouseNet configurations for CIFAR-10; mabuice/Mouse_CNN has .01 and 1e-4 on ImageNet.
    **{f"{net}_supervised": {**SUPERVISED, "learning_rate": 0.01, "weight_decay": 5e-4} for net in MOUSENETS},
    # As the stream networks'.
    **{f"{net}_ir": FACTS["dual_stream_ir"] for net in MOUSENETS},
    **{f"{net}_linear_readout": READOUT for net in MOUSENETS},
    # Rates: 0.2 x batch / 256 (Zbontar et al. 2021, section 2.2; Bardes et al. 2022, section 4.2).
    "alexnet_barlow_twins": {**LARGE, "learning_rate": 0.2 * 2048 / 256},
    "alexnet_vicreg": {**LARGE, "learning_rate": 0.2 * 2048 / 256},
}
OBJECTIVES = {
    "ir": {
        "name": "instance_recognition",
        "width": 128,
        "noise_samples": 4096,
        "temperature": 0.07,
        "bank_momentum": 0.5,
    },
    "mocov2": {
        "name": "mocov2",
        "hidden": 2048,
        "width": 128,
        "queue": 65536,
        "temperature": 0.2,
        "momentum": 0.999,
    },
    "simclr": {"name": "simclr", "hidden": 2048, "width": 128, "temperature": 0.1},
    "simsiam": {"name": "simsiam", "hidden": 2048, "width": 2048, "prediction_hidden": 512},
    "barlow_twins": {
        "name": "barlow_twins",
        "widths": (8192, 8192, 8192),
        "off_diagonal_weight": 0.0051,
        "divide_by": None,
    },
    "vicreg": {
        "name": "vicreg",
        "widths": (8192, 8192, 8192),
        "invariance_weight": 25,
        "variance_weight": 25,
        "covariance_weight": 1,
        "divide_by": None,
    },
    "rotnet": {"name": "rotnet"},
    "autoencoder": {"name": "autoencoder", "l1_weight": 5e-4},
    "depth": {"name": "depth_prediction"},
    "relative_location": {
        "name": "relative_location",
        "hidden": 4096,
        "dropout": 0.5,
        "norm_momentum": 0.003,
    },
    "supervised": {"name": "cross_entropy"},
}

CROP, SMALL_CROP = ("random_resized", (0.08, 1.0), 224), ("random_resized", (0.2, 1.0), 224)
FLIP, GREY = ("flip", 0.5), ("greyscale", 0.2)
WEAK, STRONG = ("colour_jitter", 0.4, 0.4, 0.4, 0.1, 0.8), ("colour_jitter", 0.8, 0.8, 0.8, 0.2, 0.8)
PALE = ("colour_jitter", 0.4, 0.4, 0.2, 0.1, 0.8)
BLUR = ("blur", (0.1, 2.0), 224, 0.5)
ASYMMETRIC = (
    (CROP, (FLIP, PALE, GREY, ("blur", (0.1, 2.0), 224, 1.0))),
    (CROP, (FLIP, PALE, GREY, ("blur", (0.1, 2.0), 224, 0.1), ("solarise", 128, 0.2))),
)
#: Every view that is drawn: its crop and its steps in order.
VIEWS = {
    "ir": ((SMALL_CROP, (GREY, ("colour_jitter", 0.4, 0.4, 0.4, 0.4, 1.0), FLIP)),),
    "simclr": ((CROP, (FLIP, STRONG, GREY, BLUR)),) * 2,
    "mocov2": ((SMALL_CROP, (WEAK, GREY, BLUR, FLIP)),) * 2,
    "simsiam": ((SMALL_CROP, (FLIP, WEAK, GREY, BLUR)),) * 2,
    "barlow_twins": ASYMMETRIC,
    "vicreg": ASYMMETRIC,
    "rotnet": ((CROP, (FLIP,)),),
    "autoencoder": ((CROP, (FLIP,)),),
    "supervised": ((CROP, (FLIP,)),),
    "linear_readout": ((CROP, (FLIP,)),),
    "depth": ((("random", 480, 224), (FLIP,)),),
    "relative_location": ((("random", 292, 255), (("greyscale", 0.66),)),),
}
EXPANSIONS = {
    "rotnet": {"name": "rotations"},
    "relative_location": {"name": "patches", "cell_px": 85, "patch_px": 64},
}


def ending_of(name: str) -> str:
    """Name of the objective that a recipe's name ends in."""
    return max((ending for ending in ENDINGS if name.endswith(f"_{ending}")), key=len)


def test_table_2_has_48_rows_and_every_row_a_recipe():
    assert len(set(TABLE_2)) == 48
    assert {name for name in packaged_recipes() if "/" not in name} == {*TABLE_2, *READOUTS, *OTHERS}


def published(name: str) -> dict[str, Any]:
    """What is known of a run: its released configuration, else the settings of another named source."""
    return {**FACTS[name], **UNRELEASED.get(name, {})}


def test_the_facts_name_every_recipe_and_what_was_not_released():
    assert set(FACTS) == {*TABLE_2, *READOUTS}
    assert {name for name, fact in FACTS.items() if fact["released_config"] is None} == set(UNRELEASED)


@pytest.mark.parametrize("name", [*TABLE_2, *READOUTS])
def test_training_as_published(name, recipe_named):
    recipe, fact = recipe_named(name), published(name)
    optimiser, schedule, warmup, ratio, rate_at = KINDS.get(ending_of(name), STEPS)
    assert recipe.train.max_steps is None
    assert (recipe.train.batch_size, recipe.train.epochs) == (fact["batch_size"], fact["epochs"])
    assert recipe.optimiser.name == optimiser
    assert recipe.optimiser.learning_rate == pytest.approx(fact["learning_rate"], rel=1e-12)
    assert recipe.optimiser.weight_decay == fact["weight_decay"]
    assert recipe.optimiser.momentum == fact["momentum"]
    assert recipe.optimiser.nesterov == fact["nesterov"]
    assert recipe.schedule.name == schedule
    if schedule == "step":
        assert list(recipe.schedule.milestones) == fact["milestones"]
        assert recipe.schedule.factor == fact.get("factor", 0.1)
    assert (recipe.schedule.warmup_epochs, recipe.schedule.warmup_ratio) == (warmup, ratio)
    assert getattr(recipe.schedule, "rate_at", None) == rate_at
    # Keys are shuffled between processes, so their norms must not see all of them.
    assert recipe.train.sync_norm == (ending_of(name) != "mocov2")
    # Only MoCo v2's queue needs whole batches.
    assert recipe.data.drop_last == (ending_of(name) == "mocov2")


@pytest.mark.parametrize("name", [*TABLE_2, *READOUTS])
def test_the_scored_checkpoint_is_the_published_one(name, recipe_named):
    checkpoint = recipe_named(name).checkpoint
    scored = {"best validation top-1": "best", "best": "best", "last epoch": "last", None: "last"}
    assert checkpoint.score == scored[FACTS[name]["scored_checkpoint"]]
    has_labels = ending_of(name) in ("supervised", "linear_readout")
    assert (checkpoint.best_by == "validation_loss.top1") == has_labels


@pytest.mark.parametrize("name", [*TABLE_2, *READOUTS])
def test_the_notes_name_the_configuration_or_say_that_none_was_released(name, recipe_named):
    notes = recipe_named(name).notes
    config = FACTS[name]["released_config"]
    assert (f"configs/{config}" if config else "No configuration of this") in notes
    assert "no value was released" not in notes
    changed = any("colour_jitter" in str(view.steps) for view in recipe_named(name).views.views)
    assert ("Colour operations act on the 64 px view" in notes) == changed


@pytest.mark.parametrize("name", [f"{net}_simclr" for net in (*STREAMS, "alexnet")])
def test_simclr_excludes_by_name_as_published(name, recipe_named):
    assert recipe_named(name).optimiser.exclude == "published"


def test_relative_location_is_validated_on_colour_patches(recipe_named):
    recipe = recipe_named("resnet18_relative_location")
    (views,) = [item.views for item in recipe.evaluate if item.name == "validation_loss"]
    assert [view.crop.model_dump() for view in views.views] == [recipe.views.views[0].crop.model_dump()]
    assert views.views[0].steps == ()
    assert (views.size_px, views.expand) == (recipe.views.size_px, recipe.views.expand)


@pytest.mark.parametrize("name", TABLE_2)
def test_objective_as_published(name, recipe_named):
    assert recipe_named(name).objective.model_dump() == OBJECTIVES[ending_of(name)]


@pytest.mark.parametrize("name", [*TABLE_2, *READOUTS])
def test_views_as_published(name, recipe_named):
    views = recipe_named(name).views
    found = tuple(
        (_crop(view.crop.model_dump()), tuple(tuple(step.model_dump().values()) for step in view.steps))
        for view in views.each()
    )
    assert found == VIEWS[ending_of(name)]
    expand = views.expand.model_dump() if views.expand is not None else None
    assert expand == EXPANSIONS.get(ending_of(name))
    assert views.size_px == (255 if ending_of(name) == "relative_location" else 64)
    assert (views.mean, views.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _crop(crop: dict[str, object]) -> tuple[object, ...]:
    if crop["name"] == "random_resized":
        assert crop["ratio"] == pytest.approx((3 / 4, 4 / 3), rel=1e-15)
        return crop["name"], crop["scale"], crop["via_px"]
    assert crop["pad_px"] == 0
    return crop["name"], crop["resize_px"], crop["crop_px"]


@pytest.mark.parametrize("name", [*TABLE_2, *READOUTS])
def test_images_and_where_training_starts(name, recipe_named):
    recipe = recipe_named(name)
    assert recipe.data.images == ("pbrnet" if ending_of(name) == "depth" else "imagenet_full")
    from mvkit.models.registry import RELEASED

    assert (recipe.model.weights == "released") == (recipe.model.architecture in RELEASED)
    if name in TABLE_2:
        assert recipe.model.weights == "random"
        assert recipe.model.architecture.rsplit("_", 1)[0] == name.removesuffix(f"_{ending_of(name)}")


def test_both_rates_of_alexnet_are_named_and_the_choice_explained(recipe_named):
    notes = recipe_named("alexnet_ir").notes
    assert "0.03," in notes and "0.003." in notes and "Chosen: 0.003, because" in notes


def test_six_stream_is_the_only_autoencoder_with_a_lower_rate(recipe_named):
    rates = {net: recipe_named(f"{net}_autoencoder").optimiser.learning_rate for net in STREAMS}
    assert rates == {"single_stream": 0.01, "dual_stream": 0.01, "six_stream": 0.001}


@pytest.mark.parametrize(("name", "other"), VARIANTS.items())
def test_variants_are_trained_like_the_run_that_they_vary(name, other, recipe_named):
    recipe, basis = recipe_named(name), recipe_named(other)
    for section in ("optimiser", "schedule", "train", "checkpoint", "evaluate"):
        assert getattr(recipe, section) == getattr(basis, section), section
    assert recipe.objective.name == basis.objective.name
    if name.endswith("_ir_views"):
        assert recipe.views == recipe_named("alexnet_ir").views
    elif not name.endswith("_cifar10"):
        assert recipe.views == basis.views
        assert recipe.data == basis.data
    if not name.endswith("depth_from_ir"):
        assert "at hand" in recipe.notes or "names no folder" in recipe.notes
        assert recipe.model.weights == "random"
        assert recipe.model.encoder is None


def test_networks_of_the_variants(recipe_named):
    """Names of the reference's model_paths.py and alexnet.py."""
    networks = {
        name: find_model(recipe_named(name).model.architecture).architecture.name for name in VARIANTS
    }
    assert networks["alexnet_two_supervised"] == "alexnet_two_64x64"
    assert networks["alexnet_six_supervised"] == "alexnet_six_64x64"
    assert networks["alexnet_supervised_ir_views"] == "alexnet_64x64_input_pool_6"
    assert networks["alexnet_bn_supervised_ir_views"] == "alexnet_bn"
    assert networks["alexnet_without_bn_ir"] == "alexnet_ir_64x64_input_pool_6"
    assert networks["single_stream_cifar10"] == "simplified_mousenet_single_stream"
    assert networks["dual_stream_cifar10"] == "simplified_mousenet_dual_stream_visp_3x3_bn"
    assert networks["six_stream_cifar10"] == "simplified_mousenet_six_stream_visp_3x3_bn"
    assert networks["resnet18_cifar10"] == "resnet18_64x64_input"
    assert networks["shi_mousenet_vispor5_cifar10"] == "shi_mousenet_vispor5"
    assert networks["six_stream_autoencoder_linear_readout"] == "simplified_mousenet_ae_six_stream"
    assert networks["dual_stream_depth_linear_readout"] == "simplified_mousenet_depth_hour_glass_dual_stream"


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.endswith("_cifar10")])
def test_cifar10_as_in_the_references_transforms(name, recipe_named):
    """trainer_transforms.py, SupervisedCIFAR10Trainer_64x64, and constants.py."""
    recipe = recipe_named(name)
    assert recipe.data.images == "cifar10"
    (view,) = recipe.views.each()
    assert view.crop.model_dump() == {"name": "random", "resize_px": 32, "crop_px": 32, "pad_px": 4}
    assert [step.model_dump() for step in view.steps] == [{"name": "flip", "probability": 0.5}]
    (shown,) = recipe.validation.each()
    assert (shown.crop.resize_px, shown.crop.crop_px, shown.steps) == (64, 64, ())
    for views in (recipe.views, recipe.validation):
        assert views.size_px == 64
        assert (views.mean, views.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


@pytest.mark.parametrize("kind", ["autoencoder", "depth"])
def test_readouts_of_mirror_networks_see_the_encoders_output(kind, recipe_named):
    recipe = recipe_named(f"dual_stream_{kind}_linear_readout")
    assert recipe.objective.layer == "final:encoder_output"


def test_depth_from_instance_recognition_names_its_encoder(recipe_named):
    model = recipe_named("dual_stream_depth_from_ir").model
    assert (model.architecture, model.encoder, model.weights) == (
        "dual_stream_hourglass",
        "dual_stream_ir",
        "released",
    )
