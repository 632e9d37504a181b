"""From a recipe's ``evaluate`` list to evaluators; what cannot be evaluated is refused before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from mvkit.errors import DataError, RecipeError
from mvkit.images.settings import ViewsSettings
from mvkit.training.evaluation.accuracy import CLASSES_FOR_TOP5
from mvkit.training.evaluation.bank_neighbours import BankNeighboursEvaluator
from mvkit.training.evaluation.base import EvaluationImages, Evaluator, EvaluatorSet
from mvkit.training.evaluation.feature_neighbours import FeatureNeighboursEvaluator
from mvkit.training.evaluation.layers import feature_width
from mvkit.training.evaluation.linear_probe import LinearProbeEvaluator
from mvkit.training.evaluation.validation_loss import ValidationLossEvaluator
from mvkit.training.recipe import (
    BankNeighbours,
    Evaluation,
    FeatureNeighbours,
    LinearProbe,
    NeuralPredictivity,
    TrainRecipe,
    ValidationLoss,
    evaluation_names,
)

#: Builds the evaluator of neural predictivity, which training itself knows nothing about.
NeuralBuilder = Callable[[NeuralPredictivity, str], Evaluator]


def build_evaluators(
    recipe: TrainRecipe,
    *,
    encoder: nn.Module,
    images: EvaluationImages,
    device: torch.device,
    neural: NeuralBuilder | None = None,
) -> EvaluatorSet:
    """Build what a recipe evaluates during training.

    Parameters
    ----------
    recipe
        Its ``evaluate`` list; that it fits the objective was checked with the recipe.
    encoder
        The network, on ``device``.
    images
        The run's images.
    device
        Where the run computes.
    neural
        Given (settings, name), returns the evaluator of neural predictivity;
        see :func:`mvkit.train_neural.build_neural_evaluator`.

    Raises
    ------
    RecipeError
        If an evaluation is listed twice, or there is no builder for it.
    UsageError
        If a layer is unknown.
    DataError
        If it needs validation images or labels that there are not.
    """
    names = _names(recipe.evaluate)
    evaluators: list[Evaluator] = []
    for settings, name in zip(recipe.evaluate, names, strict=True):
        if isinstance(settings, NeuralPredictivity):
            if neural is None:
                raise RecipeError(f"evaluate: {name}: not available here; train with mvkit train")
            evaluators.append(neural(settings, name))
            continue
        _check_images(settings, name, images)
        evaluators.append(
            _build(settings, name, recipe=recipe, encoder=encoder, images=images, device=device)
        )
    best_by = recipe.checkpoint.best_by
    if best_by is not None and best_by.endswith(".top5") and (images.n_classes or 0) < CLASSES_FOR_TOP5:
        raise DataError(
            f"checkpoint.best_by: {best_by} needs {CLASSES_FOR_TOP5} classes or more, the images have "
            f"{images.n_classes or 'none'}\ngive {best_by.removesuffix('5')}1"
        )
    return EvaluatorSet(evaluators, best_by=best_by)


def _build(
    settings: BankNeighbours | FeatureNeighbours | LinearProbe | ValidationLoss,
    name: str,
    *,
    recipe: TrainRecipe,
    encoder: nn.Module,
    images: EvaluationImages,
    device: torch.device,
) -> Evaluator:
    match settings:
        case BankNeighbours():
            return BankNeighboursEvaluator(settings, name=name, n_train=images.n_images("train"))
        case FeatureNeighbours():
            # Refuses a layer that the network does not have.
            feature_width(encoder, settings.layer, input_px=recipe.input_px)
            return FeatureNeighboursEvaluator(settings, name=name)
        case LinearProbe():
            width = feature_width(encoder, settings.layer, input_px=recipe.input_px)
            n_classes = images.n_classes or 0
            return LinearProbeEvaluator(settings, name=name, width=width, n_classes=n_classes, device=device)
        case ValidationLoss():
            return ValidationLossEvaluator(settings, name=name, views=settings.views or _views_for(recipe))


def _names(evaluate: tuple[Evaluation, ...]) -> list[str]:
    names = evaluation_names(evaluate)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise RecipeError(f"evaluate: {', '.join(twice)}: listed more than once")
    return names


def _check_images(settings: Evaluation, name: str, images: EvaluationImages) -> None:
    if not images.n_images("val"):
        raise DataError(
            f"evaluate: {name} needs validation images, and there are none\n"
            "prepare the images with a val folder, or train with --set 'evaluate=[]'"
        )
    if images.n_classes is None and not isinstance(settings, ValidationLoss):
        raise DataError(
            f"evaluate: {name} needs labels, and the images have none\n"
            "prepare the images from folders of classes, or train with --set 'evaluate=[]'"
        )


def _views_for(recipe: TrainRecipe) -> ViewsSettings:
    """Choose validation views unless the objective needs more of them than they are."""
    same_number = len(recipe.validation.each()) == len(recipe.views.each())
    suit = same_number and recipe.validation.expand == recipe.views.expand
    return recipe.validation if suit else recipe.views
