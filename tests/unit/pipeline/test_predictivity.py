"""Neural predictivity during training: the numbers of ``mvkit score``, and early refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import mvkit
from mvkit.errors import DataError, RecipeError, UsageError
from mvkit.models import VisionModel
from mvkit.models.loading import build_for_training
from mvkit.neural import NeuralDataset
from mvkit.objectives.base import build_objective
from mvkit.objectives.registry import SimSiam
from mvkit.pipeline.predictivity import build_neural_evaluator
from mvkit.scoring import ScoreSettings
from mvkit.training.evaluation import EvaluationContext, EvaluatorSet
from mvkit.training.recipe import NeuralPredictivity

AREAS = ("VISl", "VISp")
LAYERS = ("VISp", "ventral")


@pytest.fixture(scope="module")
def recordings() -> NeuralDataset:
    """The simulated recordings of two areas."""
    return mvkit.open_dataset("simulated").in_areas(AREAS)


@pytest.fixture
def encoder() -> VisionModel:
    """A network in training mode."""
    return build_for_training("single_stream_encoder", n_classes=None, seed=3)


def context(encoder: VisionModel) -> EvaluationContext:
    objective = build_objective(
        SimSiam(width=8, prediction_hidden=4),
        encoder=encoder,
        input_px=64,
        n_images=4,
        n_classes=None,
        seed=0,
    )
    return EvaluationContext(
        encoder, objective, images=None, device=torch.device("cpu"), epoch=10, step=5, seed=0
    )


def test_medians_are_those_of_mvkit_score(encoder: VisionModel, recordings: NeuralDataset, tmp_path: Path):
    protocol = tmp_path / "tiny.yaml"
    protocol.write_text("n_splits: 1\nn_halves: 3\nn_components: 4\n")
    settings = NeuralPredictivity(dataset="simulated", layers=LAYERS, areas=AREAS, recipe=str(protocol))
    evaluator = build_neural_evaluator(settings, "neural", encoder=encoder, n_jobs=1)
    statistics = {key: value.clone() for key, value in encoder.state_dict().items()}
    measured = EvaluatorSet([evaluator]).evaluate(context(encoder))
    start = mvkit.load_model("single_stream_encoder", weights="random", seed=3)
    scores = mvkit.score(
        start,
        recordings,
        layers=LAYERS,
        n_jobs=1,
        settings=ScoreSettings(n_splits=1, n_halves=3, n_components=4),
    )
    best = scores.best_layers().set_index("area")["median"]
    assert sorted(measured) == ["neural.VISl", "neural.VISp", "neural.all"]
    for area in (*AREAS, "all"):
        assert measured[f"neural.{area}"] == best[area]
        assert np.isfinite(best[area])
    assert encoder.training
    assert all(torch.equal(value, statistics[key]) for key, value in encoder.state_dict().items())


def test_published_layers_are_scored_during_training(encoder: VisionModel, recordings: NeuralDataset):
    encoder.published_layers = ("ventral",)
    settings = NeuralPredictivity(dataset="simulated", layers=("published",), areas=("VISp",))
    evaluator = build_neural_evaluator(settings, "neural", encoder=encoder, n_jobs=1)
    measured = EvaluatorSet([evaluator]).evaluate(context(encoder))
    start = mvkit.load_model("single_stream_encoder", weights="random", seed=3)
    quick = ScoreSettings(n_splits=2, n_halves=20)
    scores = mvkit.score(start, recordings, layers="ventral", areas="VISp", n_jobs=1, settings=quick)
    assert measured["neural.VISp"] == scores.best_layers()["median"][0]


def test_the_default_protocol_is_quick():
    settings = NeuralPredictivity()
    encoder = build_for_training("single_stream_encoder", n_classes=None, seed=3)
    evaluator = build_neural_evaluator(
        settings.model_copy(update={"dataset": "simulated"}), "neural", encoder=encoder
    )
    assert (evaluator._protocol.n_splits, evaluator._protocol.n_halves) == (2, 20)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"dataset": "neuropixels"}, DataError, "mvkit fetch neural --dataset neuropixels"),
        ({"dataset": "calcium"}, DataError, "mvkit fetch neural --dataset calcium"),
        ({"dataset": "neuropixel"}, UsageError, "did you mean 'neuropixels'"),
        ({"dataset": "simulated", "areas": ("VISq",)}, UsageError, "VISq"),
        ({"dataset": "simulated", "layers": ("ventrl",)}, UsageError, "did you mean 'ventral'"),
        ({"dataset": "simulated", "recipe": "score/quik"}, RecipeError, "did you mean 'score/quick'"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_training(encoder: VisionModel, settings, error, message):
    with pytest.raises(error, match=message):
        build_neural_evaluator(NeuralPredictivity(**settings), "neural", encoder=encoder)


def test_a_recipe_selects_units_and_leaves_the_input_alone(encoder: VisionModel, tmp_path: Path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: score/quick\nselection: {preset: none}\n")
    settings = NeuralPredictivity(dataset="simulated", recipe=str(recipe))
    evaluator = build_neural_evaluator(settings, "neural", encoder=encoder)
    assert evaluator._dataset.selection["name"] == "none"
    recipe.write_text("input: {size_px: 32}\n")
    with pytest.raises(RecipeError, match=r"mine\.yaml: input: a network in training"):
        build_neural_evaluator(settings, "neural", encoder=encoder)
