"""What the sections of a training recipe demand of each other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from mvkit.objectives.table import OBJECTIVES

if TYPE_CHECKING:
    from mvkit.training.recipe import TrainRecipe


def contradictions(recipe: TrainRecipe) -> list[tuple[str, str]]:
    """Return every contradiction between sections: (key, what is wrong with it)."""
    return [*_views(recipe), *_schedule(recipe), *_optimiser(recipe), *_evaluation(recipe)]


def _views(recipe: TrainRecipe) -> Iterator[tuple[str, str]]:
    name = recipe.objective.name
    row = OBJECTIVES[name]
    n_views = len(recipe.views.each())
    if n_views != row.n_views:
        yield "views.views", f"{name} needs {row.n_views} of an image, got {n_views} (copies counted)"
    expand = recipe.views.expand.name if recipe.views.expand else None
    if expand != row.expansion:
        needed = f"'{row.expansion}'" if row.expansion else "none"
        yield "views.expand", f"{name} needs {needed}, got {expand!r}"


def _schedule(recipe: TrainRecipe) -> Iterator[tuple[str, str]]:
    schedule, epochs = recipe.schedule, recipe.train.epochs
    if schedule.warmup_epochs >= epochs and schedule.warmup_epochs > 0:
        yield (
            "schedule.warmup_epochs",
            f"must be below train.epochs ({epochs}), got {schedule.warmup_epochs:g}",
        )
    if schedule.name != "step":
        return
    milestones = schedule.milestones
    if any(later <= earlier for earlier, later in pairwise(milestones)):
        yield "schedule.milestones", f"must ascend, got {list(milestones)}"
    late = [milestone for milestone in milestones if milestone >= epochs]
    if late:
        advice = "for a trial run set train.max_steps"
        yield "schedule.milestones", f"must be below train.epochs ({epochs}), got {late}; {advice}"


def _optimiser(recipe: TrainRecipe) -> Iterator[tuple[str, str]]:
    optimiser = recipe.optimiser
    if optimiser.name == "sgd" and optimiser.nesterov and optimiser.momentum == 0:
        yield "optimiser.nesterov", "needs a momentum above 0"
    if optimiser.name != "lars" or optimiser.bias_and_norm_learning_rate is None:
        return
    if not optimiser.exclude_bias_and_norm:
        yield "optimiser.bias_and_norm_learning_rate", "needs exclude_bias_and_norm: true"


def _evaluation(recipe: TrainRecipe) -> Iterator[tuple[str, str]]:
    name = recipe.objective.name
    for position, evaluation in enumerate(recipe.evaluate):
        key = f"evaluate[{position}].name"
        if evaluation.name == "bank_neighbours" and name != "instance_recognition":
            yield key, f"{name} keeps no memory bank; use feature_neighbours"
        if evaluation.name == "validation_loss" and not OBJECTIVES[name].build.scores_new_images:
            yield key, f"{name} looks images up in the training set; use bank_neighbours"
