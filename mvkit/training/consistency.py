"""What the sections of a training recipe demand of each other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from mvkit.naming import suggest
from mvkit.objectives.table import OBJECTIVES
from mvkit.training.recipe import evaluation_names

if TYPE_CHECKING:
    from mvkit.training.recipe import Evaluation, TrainRecipe


def contradictions(recipe: TrainRecipe) -> list[tuple[str, str]]:
    """Return every contradiction between sections: (key, what is wrong with it)."""
    sections = (_views, _validation, _schedule, _optimiser, _evaluation, _checkpoint)
    return [problem for check in sections for problem in check(recipe)]


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


def _validation(recipe: TrainRecipe) -> Iterator[tuple[str, str]]:
    """Check that validation views, the network's preprocessing, have size and normalisation of training."""
    validation, views = recipe.validation, recipe.views
    first = validation.views[0]
    if len(validation.each()) > 1 or first.steps or first.crop.name != "centre" or first.crop.crop_px is None:
        needed = "one view, a centre crop with crop_px and without steps: it is the network's preprocessing"
        yield "validation.views", f"must be {needed}"
    if validation.size_px != recipe.input_px:
        key = "views.expand.patch_px" if recipe.input_px != views.size_px else "views.size_px"
        yield (
            "validation.size_px",
            f"is {validation.size_px}, but the network is trained on {recipe.input_px} px ({key}); "
            "it is scored at the size of its validation views, so both must be equal",
        )
    for name in ("mean", "std"):
        own, trained = list(getattr(validation, name)), list(getattr(views, name))
        if own != trained:
            yield f"validation.{name}", f"is {own}, but views.{name} is {trained}; both must be equal"


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
    if optimiser.name == "lars" and optimiser.excluded_learning_rate and optimiser.exclude == "none":
        yield "optimiser.excluded_learning_rate", "needs excluded parameters (exclude: bias_and_norm)"


def _evaluation(recipe: TrainRecipe) -> Iterator[tuple[str, str]]:
    name = recipe.objective.name
    row = OBJECTIVES[name]
    for position, evaluation in enumerate(recipe.evaluate):
        key = f"evaluate[{position}].name"
        if evaluation.name == "bank_neighbours" and name != "instance_recognition":
            yield key, f"{name} keeps no memory bank; use feature_neighbours"
        if evaluation.name == "validation_loss" and not OBJECTIVES[name].build.scores_new_images:
            yield key, f"{name} looks images up in the training set; use bank_neighbours"
        if evaluation.name == "validation_loss" and evaluation.views is not None:
            expand = evaluation.views.expand.name if evaluation.views.expand else None
            if (len(evaluation.views.each()), expand) != (row.n_views, row.expansion):
                needed = f"{row.n_views} of an image, expand: {row.expansion or 'none'}"
                yield f"evaluate[{position}].views", f"{name} needs {needed}"


def _checkpoint(recipe: TrainRecipe) -> Iterator[tuple[str, str]]:
    best_by = recipe.checkpoint.best_by
    if best_by is None:
        return
    named = zip(evaluation_names(recipe.evaluate), recipe.evaluate, strict=True)
    valid = [number for name, evaluation in named for number in _numbers(name, evaluation, recipe)]
    if best_by not in valid:
        shown = ", ".join(valid[:12]) or "nothing: evaluate is empty"
        yield "checkpoint.best_by", f"'{best_by}' is not measured{suggest(best_by, valid)}; measured: {shown}"


def _numbers(name: str, evaluation: Evaluation, recipe: TrainRecipe) -> list[str]:
    """Return the numbers by which an evaluation can choose the best epoch, ``evaluation.number``."""
    kind = evaluation.name
    if evaluation.name == "neural_predictivity":
        return [f"{name}.{key}" for key in ("all", *(evaluation.areas or ()))]
    if kind == "validation_loss":
        return [f"{name}.{key}" for key in (*OBJECTIVES[recipe.objective.name].accuracies, "loss")]
    return [f"{name}.{key}" for key in (("top1",) if kind == "bank_neighbours" else ("top1", "top5"))]
